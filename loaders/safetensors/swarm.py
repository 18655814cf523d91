"""Who fetches which chunk from whom: the decisions of the tracker, with the time as an input and no effects.

The origin is asked for a chunk once; from then on the chunk travels from node to node. A chunk counts as held as soon
as one node has it, so that nodes relay while they are still loading. Of what a node lacks it gets the rarest first, and
among equally rare ones the first in the file: nodes then sweep the file together and their readers follow.

Sets of chunks are integers, one bit per chunk: with tens of thousands of chunks a choice still takes microseconds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from loaders.safetensors.cache_content import bits

SILENT = 15.0
"""Seconds without a word after which a node counts as dead: several heartbeats, and a pause for garbage collection."""

QUIET = 3.0
"""Seconds without a word, of several per second, after which another process of a node may fetch what one was to."""

STUCK = 30.0
"""Seconds after which a chunk that one node fetches from the origin may be fetched by another as well."""

AVOIDED = 20.0
"""Seconds for which a node is not sent again to a peer, or to the origin, that failed it."""

UPLOADS = 4
"""Chunks that one node sends at a time: more only makes each of them later, and relays start with whole chunks."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Fetch this chunk from a peer, or from the origin where `source` is None. The checksum is None if unknown."""

    chunk: int
    source: str | None
    endpoint: str | None = None
    checksum: int | None = None


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """A chunk on its way to a node."""

    source: str | None
    since: float


@dataclass(kw_only=True)
class Member:
    """What is known of a node."""

    endpoint: str
    seen: float
    asked: float = -math.inf
    """When it asked last what to fetch. A word may be of any process of a node, a fetch is of one."""
    have: int = 0
    want: int = -1
    """The chunks that it is to get; all of them, if nothing else was said."""
    fetching: dict[int, Fetch] = field(default_factory=dict)
    late: dict[int, set[str]] = field(default_factory=dict)
    """Chunks that these peers are still asked for, and do not bring in time."""
    avoid: dict[str | None, float] = field(default_factory=dict)

    def avoids(self, source: str | None, now: float) -> bool:
        """Tell whether this source failed the node a short while ago."""
        return self.avoid.get(source, now) > now

    @property
    def late_peers(self) -> set[str]:
        """Peers that do not bring something in time: nothing more is asked of them until that is over."""
        return set().union(*self.late.values())

    @property
    def late_chunks(self) -> int:
        """Chunks that are to be had elsewhere."""
        return sum(1 << chunk for chunk in self.late)


def site(member: str) -> str:
    """The node of a member. A partial load is one of its own, NODE/NUMBER: it wants less, and has the node's cache."""
    return member.partition("/")[0]


class Swarm:
    """All nodes that hold or want one content."""

    def __init__(self, chunks: int) -> None:
        """Nobody has any of so many chunks."""
        self.all = (1 << chunks) - 1
        self.members: dict[str, Member] = {}
        self.checksums: dict[int, int] = {}
        self._held_by: list[int] = [self.all]

    def join(self, node: str, endpoint: str, have: int, now: float) -> None:
        """Take a node in, or hear from it where it is now and what it has gained."""
        member = self.members.setdefault(node, Member(endpoint=endpoint, seen=now))
        member.endpoint, member.seen = endpoint, now
        for chunk in bits(have & self.all & ~member.have):
            self._gain(node, chunk)
            member.fetching.pop(chunk, None)

    def begin(self, node: str, have: int, want: int | None = None) -> None:
        """A node fetches anew and has exactly this: what it had before may be evicted, what it fetched is free."""
        member = self.members[node]
        member.want = self.all if want is None else want & self.all
        for chunk in bits(member.have & ~have):
            self._lose(node, chunk)
        member.fetching.clear()
        member.late.clear()
        member.avoid.clear()

    def end(self, node: str) -> None:
        """A node fetches no more: what was on its way to it is free again. It keeps what it has."""
        self.members[node].fetching.clear()
        self.members[node].late.clear()

    def leave(self, node: str) -> None:
        """Forget a node: what it held is rarer, and what it was fetching is free again."""
        member = self.members.get(node)
        for chunk in bits(member.have if member else 0):
            self._lose(node, chunk)
        self.members.pop(node, None)

    def heard(self, node: str, now: float) -> bool:
        """Note a word of a node and drop the silent ones; False if the node is not known and must join."""
        if node in self.members:
            self.members[node].seen = now
        self.drop_silent(now)
        return node in self.members

    def drop_silent(self, now: float) -> None:
        """Forget the nodes of which nothing was heard for a while."""
        for name in [name for name, member in self.members.items() if now - member.seen > SILENT]:
            self.leave(name)

    def landed(self, node: str, chunk: int, checksum: int) -> None:
        """A node has a chunk and can pass it on. The first one says what its bytes are."""
        self.members[node].fetching.pop(chunk, None)
        self.members[node].late.pop(chunk, None)
        self.checksums.setdefault(chunk, checksum)
        self._gain(node, chunk)

    def failed(self, node: str, chunk: int, now: float, *, lost: bool = False) -> None:
        """A node did not get a chunk. `lost`: the source has not got it (evicted, or not what it should be)."""
        member = self.members[node]
        fetch = member.fetching.pop(chunk, None)
        if fetch is None:
            return
        if lost and fetch.source in self.members:
            self._lose(str(fetch.source), chunk)
        else:
            member.avoid[fetch.source] = now + AVOIDED

    def late(self, node: str, chunk: int) -> None:
        """A peer does not bring a chunk in time: another one, or else the origin, is asked for it as well."""
        member = self.members[node]
        fetch = member.fetching.get(chunk)
        if fetch is not None and fetch.source is not None:
            del member.fetching[chunk]
            member.late.setdefault(chunk, set()).add(fetch.source)

    def let_go(self, node: str, chunk: int, source: str, now: float) -> None:
        """A late request ended without the chunk: somebody else was faster, or it failed."""
        member = self.members[node]
        member.avoid[source] = now + AVOIDED
        member.late.get(chunk, set()).discard(source)
        if not member.late.get(chunk, True):
            del member.late[chunk]

    def assign(self, node: str, now: float, *, origin: int, peers: int) -> list[Assignment]:
        """Choose what a node fetches next, for so many free slots of each kind."""
        self.members[node].asked = now
        return [*self._from_origin(node, now, origin), *self._from_peers(node, now, peers)]

    def done(self, node: str) -> bool:
        """Tell whether a node has everything that it wants."""
        return not self.members[node].want & self.all & ~self._there(node)

    def whole(self) -> bool:
        """Tell whether the nodes have everything between them."""
        return not self._held_by[0]

    def _missing(self, node: str, now: float) -> int:
        """What a node wants, and neither has nor fetches, in any of its processes."""
        lively = [member for member in self._of_site(node) if now - member.asked <= QUIET]
        asked = sum({1 << chunk for member in lively for chunk in member.fetching})
        return self.members[node].want & self.all & ~self._there(node) & ~asked

    def _of_site(self, node: str) -> list[Member]:
        return [member for name, member in self.members.items() if site(name) == site(node)]

    def _there(self, node: str) -> int:
        there = 0
        for member in self._of_site(node):
            there |= member.have
        return there

    def holders(self, node: str) -> dict[str, int]:
        """What other nodes have, by where they serve it."""
        found: dict[str, int] = {}
        for name, member in self.members.items():
            if site(name) != site(node) and member.have:
                found[member.endpoint] = found.get(member.endpoint, 0) | member.have
        return found

    def _from_origin(self, node: str, now: float, slots: int) -> Iterator[Assignment]:
        """Choose from what no peer has that answers this node. Who is late may still bring what it is not late with."""
        me = self.members[node]
        if me.avoids(None, now):
            return
        reachable = 0
        for name, member in self.members.items():
            late = me.late_chunks if name in me.late_peers else 0
            reachable |= 0 if me.avoids(name, now) else member.have & ~late
        missing = self._missing(node, now) & ~reachable & ~self._asked_of_origin(node, now)
        for chunk in _first([missing & me.late_chunks, missing & ~me.late_chunks], slots):
            yield self._begin(node, chunk, None, now)

    def _asked_of_origin(self, node: str, now: float) -> int:
        """The chunks that some node is fetching from the origin, and is not stuck with."""
        asked = 0
        for name, member in self.members.items():
            if now - member.asked > (QUIET if site(name) == site(node) else SILENT):
                continue
            for chunk, fetch in member.fetching.items():
                if fetch.source is None and now - fetch.since < STUCK:
                    asked |= 1 << chunk
        return asked

    def _from_peers(self, node: str, now: float, slots: int) -> Iterator[Assignment]:
        free = {name: UPLOADS - load for name, load in self._uploads().items() if load < UPLOADS}
        me = self.members[node]
        others = {name for name in self.members if site(name) in free and site(name) != site(node)}
        usable = {name for name in others if not me.avoids(name, now)} - me.late_peers
        reachable = 0
        for name in usable:
            reachable |= self.members[name].have
        missing = self._missing(node, now) & reachable
        late = missing & me.late_chunks
        for chunk in itertools.chain(bits(late), self._rarest(missing & ~late)):
            if not slots or not usable:
                return
            holders = [name for name in usable if self.members[name].have >> chunk & 1]
            if not holders:
                continue
            source = max(holders, key=lambda name: (free[site(name)], name))
            yield self._begin(node, chunk, source, now)
            slots -= 1
            free[site(source)] -= 1
            if not free[site(source)]:
                usable = {name for name in usable if site(name) != site(source)}

    def _rarest(self, wanted: int) -> Iterator[int]:
        for held in self._held_by[1:]:
            yield from bits(wanted & held)

    def _uploads(self) -> dict[str, int]:
        """How many chunks each node is sending."""
        loads = dict.fromkeys(map(site, self.members), 0)
        for member in self.members.values():
            late = [source for sources in member.late.values() for source in sources]
            for source in [*(fetch.source for fetch in member.fetching.values() if fetch.source), *late]:
                if site(source) in loads:
                    loads[site(source)] += 1
        return loads

    def _begin(self, node: str, chunk: int, source: str | None, now: float) -> Assignment:
        self.members[node].fetching[chunk] = Fetch(source=source, since=now)
        endpoint = None if source is None else self.members[source].endpoint
        return Assignment(chunk=chunk, source=source, endpoint=endpoint, checksum=self.checksums.get(chunk))

    def _gain(self, node: str, chunk: int) -> None:
        if not self.members[node].have >> chunk & 1:
            self.members[node].have |= 1 << chunk
            self._move(chunk, 1)

    def _lose(self, node: str, chunk: int) -> None:
        if self.members[node].have >> chunk & 1:
            self.members[node].have &= ~(1 << chunk)
            self._move(chunk, -1)

    def _move(self, chunk: int, step: int) -> None:
        """Keep the chunks sorted by how many nodes hold them."""
        count = next(number for number, held in enumerate(self._held_by) if held >> chunk & 1)
        if count + step == len(self._held_by):
            self._held_by.append(0)
        self._held_by[count] &= ~(1 << chunk)
        self._held_by[count + step] |= 1 << chunk


def _first(sets: Sequence[int], count: int) -> Iterator[int]:
    """The first so many chunks of several sets, one set after the other."""
    yield from itertools.islice(itertools.chain.from_iterable(map(bits, sets)), count)
