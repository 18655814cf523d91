"""Fills one content of this node's cache, from peers and the origin together, as the tracker says."""

from __future__ import annotations

import contextlib
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import xxhash

from loaders.safetensors.cache_entry import Entry
from loaders.safetensors.errors import LoadError, SourceChanged
from loaders.safetensors.peer_ranges import PeerRanges
from loaders.safetensors.races import MOST_LATE, Overtaken, Patience, Race, Runner
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.wire import Broken
from loaders.safetensors.swarm import Assignment
from loaders.safetensors.tracker import Held, Report, TrackerLost, Tracking, Turn

ORIGIN_SLOTS, PEER_SLOTS = 8, 4
"""Chunks on their way at a time; each takes one chunk of memory until it is written."""

NEXT_ASK, IDLE_ASK = 0.02, 0.25
"""Seconds between two questions to the tracker while nothing lands; idle nodes slow down to the second."""

MOST_ORIGIN_FAILURES = 3
"""In a row, each after the source's own retries: then the load itself asks the origin and says what is wrong."""

CLAIMED_FOR, LOOKS_AGAIN = 5.0, 0.01
"""Seconds for which a chunk that another process of the node is fetching is waited for, and between two looks."""


class Lost(Exception):
    """The peer answers, but has not got the chunk, or its bytes are wrong."""


@dataclass(frozen=True, kw_only=True)
class Landed:
    """What became of one request of a race."""

    race: Race
    runner: Runner
    checksum: int | None = None
    error: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class News:
    """What the tracker is told next."""

    landed: list[tuple[int, int]] = field(default_factory=list)
    failed: list[tuple[int, bool]] = field(default_factory=list)
    let_go: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What a node is in the swarm, and which chunks it is there for: all of them, if that is `None`."""

    node: str
    endpoint: str
    token: str
    tracker: Tracking
    want: int | None = None


class Fill:
    """Runs in one thread of one process of the node, with workers of its own."""

    def __init__(self, entry: Entry, origin: Source, membership: Membership) -> None:
        """The entry and the origin stay the caller's, who may close them after `run`."""
        self._entry, self._origin, self._membership = entry, origin, membership
        self._peers = PeerRanges(entry.content.key)
        self._landed: queue.SimpleQueue[Landed] = queue.SimpleQueue()
        self._free = {True: ORIGIN_SLOTS, False: PEER_SLOTS}
        self._races: dict[int, Race] = {}
        self._patience = Patience(entry.content.size, entry.content.chunk_size)
        self._failures = 0
        self._report = Report()
        self.from_origin = self.from_peers = 0

    @property
    def in_vain(self) -> int:
        """Bytes that may have been received twice: of a request to the origin that was broken off, all count."""
        return self._patience.in_vain

    def run(self, interrupt: Interrupt) -> None:
        """Return when what is wanted of the content is there; raise when it cannot be, or when interrupted."""
        self._begin()
        lost = False
        workers = ThreadPoolExecutor(ORIGIN_SLOTS + PEER_SLOTS + MOST_LATE, thread_name_prefix="weights-fill")
        try:
            with interrupt.child() as inner, workers as pool:
                try:
                    self._take_turns(pool, inner)
                finally:
                    inner.fire(LoadError("the fill is over"))
                    self._peers.close()
        except TrackerLost:
            lost = True
            raise
        finally:
            landed = self._take_the_rest()
            if not lost:
                self._say_the_last(landed)

    def _take_the_rest(self) -> tuple[tuple[int, int], ...]:
        """Those under way when it was over have ended by now: count what lost, and return what landed."""
        landed = []
        while not self._landed.empty():
            found = self._landed.get()
            self._patience.in_vain += found.runner.received if isinstance(found.error, Overtaken) else 0
            if found.checksum is not None:
                landed.append((found.runner.assignment.chunk, found.checksum))
        return tuple(landed)

    def _say_the_last(self, landed: tuple[tuple[int, int], ...]) -> None:
        with contextlib.suppress(TrackerLost):
            self._turn(replace(self._report, landed=self._report.landed + landed, is_last=True))

    def _take_turns(self, pool: ThreadPoolExecutor, interrupt: Interrupt) -> None:
        pause = NEXT_ASK
        while True:
            interrupt.check()
            turn = self._turn(self._report)
            self._report = Report()
            if turn.done:
                return
            if not turn.known:
                self._begin()
            for assignment in turn.assignments:
                self._start(assignment, pool, interrupt)
            news = self._collect(pause)
            late = self._late()
            self._report = Report(
                landed=tuple(news.landed), failed=tuple(news.failed), late=late, let_go=tuple(news.let_go)
            )
            pause = NEXT_ASK if news.landed or late or turn.assignments else min(IDLE_ASK, pause * 1.5)

    def _begin(self) -> None:
        me = self._membership
        have = sum(1 << chunk for chunk in self._entry.present())
        me.tracker.begin(me.node, me.endpoint, Held(content=self._entry.content, have=have, want=me.want))

    def _turn(self, report: Report) -> Turn:
        me = self._membership
        return me.tracker.turn(me.node, self._entry.content.key, report, (self._free[True], self._free[False]))

    def _start(self, assignment: Assignment, pool: ThreadPoolExecutor, interrupt: Interrupt) -> None:
        """Ask for a chunk: for the first time, or as a rival of a request that is late."""
        race = self._races.setdefault(assignment.chunk, Race())
        runner = Runner(assignment)
        race.add(runner)
        self._free[assignment.source is None] -= 1
        pool.submit(self._fetch, race, runner, interrupt)

    def _late(self) -> tuple[int, ...]:
        """Return the chunks whose request has just become late; it goes on, and its slot is another one's."""
        now, found = time.monotonic(), []
        for chunk, race in self._races.items():
            if self._patience.ends(race, now):
                race.runners[-1].late = True
                self._patience.late += 1
                self._free[False] += 1
                found.append(chunk)
        return tuple(found)

    def _collect(self, pause: float) -> News:
        """Wait for something to land, but not long, and take all that has."""
        news = News()
        until = time.monotonic() + pause
        while True:
            try:
                wait = 0.0 if news.landed else max(0.0, until - time.monotonic())
                self._settle(self._landed.get(timeout=wait), news)
            except queue.Empty:
                return news

    def _settle(self, found: Landed, news: News) -> None:
        race, runner = found.race, found.runner
        chunk, source = runner.assignment.chunk, runner.assignment.source
        race.end(runner)
        if not race.runners and self._races.get(chunk) is race:
            del self._races[chunk]
        if runner.late:
            self._patience.late -= 1
        else:
            self._free[source is None] += 1
        if found.checksum is not None:
            self._patience.took(time.monotonic() - runner.began)
            news.landed.append((chunk, found.checksum))
            return
        if runner.late:
            news.let_go.append((chunk, str(source)))
        if isinstance(found.error, Overtaken):
            self._patience.in_vain += runner.received
            return
        self._judge(found, alone=not race.runners)
        if not runner.late:
            news.failed.append((chunk, isinstance(found.error, Lost)))

    def _judge(self, found: Landed, *, alone: bool) -> None:
        """Give up on what trying elsewhere cannot mend. While a rival is on its way, that is trying elsewhere."""
        error = found.error
        assert error is not None
        if not isinstance(error, (LoadError, Broken, Lost)) or (alone and isinstance(error, SourceChanged)):
            raise error
        if found.runner.assignment.source is None and alone:
            self._failures += 1
            if self._failures >= MOST_ORIGIN_FAILURES:
                raise error

    def _fetch(self, race: Race, runner: Runner, interrupt: Interrupt) -> None:
        def pass_on() -> None:
            if interrupt.error is not None:
                runner.interrupt.fire(interrupt.error)

        try:
            with interrupt.breaking(pass_on):
                checksum = (self._claimed if runner.assignment.source is None else self._bring)(race, runner)
        except Exception as error:
            # A request that was broken off fails in some way or other: what counts is why.
            broken_off = runner.interrupt.error
            why = broken_off if isinstance(broken_off, Overtaken) else error
            self._landed.put(Landed(race=race, runner=runner, error=why))
        else:
            self._landed.put(Landed(race=race, runner=runner, checksum=checksum))

    def _claimed(self, race: Race, runner: Runner) -> int:
        """Bring a chunk from the origin, unless a process that loads without peers is bringing it to this node now."""
        until = time.monotonic() + CLAIMED_FOR
        while time.monotonic() < until:
            with self._entry.claim(runner.assignment.chunk) as claimed:
                if claimed:
                    return self._bring(race, runner)
            runner.interrupt.wait(LOOKS_AGAIN)
        return self._bring(race, runner)

    def _bring(self, race: Race, runner: Runner) -> int:
        chunk, content = runner.assignment.chunk, self._entry.content
        there = self._entry.checksum(chunk)
        if there is not None:  # another process of this node was faster
            race.wins(runner)
            return there
        buffer = memoryview(bytearray(content.length_of(chunk)))
        checksum = None
        if runner.assignment.source is None:
            runner.received = len(buffer)  # of a request that is broken off nobody knows how much had come
            self._origin.read_into(chunk * content.chunk_size, buffer, runner.interrupt)
        else:
            checksum = self._checked(runner, chunk * content.chunk_size, buffer)
        if not race.wins(runner):
            raise Overtaken("another request was faster")
        if runner.assignment.source is None:
            self.from_origin += len(buffer)
            self._failures = 0
        else:
            self.from_peers += len(buffer)
        return self._entry.write(chunk, buffer, checksum)

    def _checked(self, runner: Runner, offset: int, buffer: memoryview) -> int:
        """Receive a chunk from a peer and return its checksum; raise `Lost` if it is not what the origin gave."""
        assignment, token = runner.assignment, self._membership.token
        assert assignment.endpoint is not None
        span = (offset, offset + len(buffer))
        with self._peers.ask(assignment.endpoint, token, span, runner.interrupt) as offer:
            runner.begun = True
            offer.receive(buffer)
            runner.received = offer.received
        if offer.status != 206:
            raise Lost(f"{assignment.endpoint} answered {offer.status}")
        if not offer.complete:
            raise Broken(f"{assignment.endpoint} ended its answer early")
        checksum = xxhash.xxh3_64_intdigest(buffer)
        # A tracker that was started anew knows no checksums; the peer's record goes back to the origin all the same.
        if assignment.checksum not in (None, checksum) or not offer.is_right(checksum):
            raise Lost(f"chunk {assignment.chunk} from {assignment.source} is not what the origin gave")
        return checksum
