"""The tracker: every content's swarm, in one place. It runs as a named Ray actor; see peers.py."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from loaders.safetensors.cache_content import Content
from loaders.safetensors.swarm import Assignment, Swarm

NAME, NAMESPACE = "heliostat-weights", "heliostat"


class TrackerLost(Exception):
    """The tracker does not answer: the load goes on with cache and origin."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A content of which a node has some chunks, and wants some (all, if that is `None`), as sets of bits."""

    content: Content
    have: int
    want: int | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of assignments: chunks with their checksums; failed ones, and whether the source lacks them.

    `late`: chunks that a peer does not bring in time and that may be asked for elsewhere as well. `let_go`: late
    requests that ended without their chunk, and the peers they were made to.
    """

    landed: tuple[tuple[int, int], ...] = ()
    failed: tuple[tuple[int, bool], ...] = ()
    late: tuple[int, ...] = ()
    let_go: tuple[tuple[int, str], ...] = ()
    is_last: bool = False
    """Nothing is fetched any more. Without this word others would wait for what was on its way."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The tracker's answer. Unknown nodes must begin again: the tracker was restarted, or thought them dead."""

    known: bool
    done: bool = False
    assignments: tuple[Assignment, ...] = ()


class Tracking(Protocol):
    """The tracker as nodes see it. Every method may raise `TrackerLost`."""

    def token(self) -> str:
        """Return the secret that peers show each other."""

    def announce(self, node: str, endpoint: str, held: Sequence[Held]) -> None:
        """Say where a node serves chunks, and which."""

    def begin(self, node: str, endpoint: str, held: Held) -> None:
        """Join a content's swarm and start to fetch."""

    def turn(self, node: str, key: str, report: Report, slots: tuple[int, int]) -> Turn:
        """Report, and ask what to fetch next with free slots for the origin and for peers."""

    def find(self, asked: Content) -> Content | None:
        """Return the version of an object that the swarm has in full, the one last heard of."""

    def holders(self, node: str, key: str) -> dict[str, int]:
        """Return what other nodes have of a content, by where they serve it."""


class Tracker:
    """One instance, called by one thread at a time."""

    def __init__(self) -> None:
        """Nobody is known; the secret is new."""
        self._token = secrets.token_hex(32)
        self._swarms: dict[str, Swarm] = {}
        self._contents: dict[str, Content] = {}

    def token(self) -> str:
        """Return the secret that peers show each other."""
        return self._token

    def announce(self, node: str, endpoint: str, held: Sequence[Held]) -> None:
        """Say where a node serves chunks, and which."""
        now = time.monotonic()
        for each in held:
            self._swarm(each.content).join(node, endpoint, each.have, now)
        self._forget_silent(now)

    def begin(self, node: str, endpoint: str, held: Held) -> None:
        """Join a content's swarm and start to fetch."""
        self.announce(node, endpoint, [held])
        self._swarm(held.content).begin(node, held.have, held.want)

    def turn(self, node: str, key: str, report: Report, slots: tuple[int, int]) -> Turn:
        """Take the report and choose what the node fetches next."""
        now, swarm = time.monotonic(), self._swarms.get(key)
        if swarm is None or not swarm.heard(node, now):
            return Turn(known=False)
        for chunk, checksum in report.landed:
            swarm.landed(node, chunk, checksum)
        for chunk, lost in report.failed:
            swarm.failed(node, chunk, now, lost=lost)
        for chunk in report.late:
            swarm.late(node, chunk)
        for chunk, source in report.let_go:
            swarm.let_go(node, chunk, source, now)
        if report.is_last:
            swarm.end(node)
            return Turn(known=True, done=True)
        origin, peers = slots
        chosen = swarm.assign(node, now, origin=origin, peers=peers)
        return Turn(known=True, done=swarm.done(node), assignments=tuple(chosen))

    def find(self, asked: Content) -> Content | None:
        """Return the version of an object that the swarm has in full, the one last heard of."""
        for key, content in reversed(self._contents.items()):
            if content.same_object(asked) and self._swarms[key].whole():
                return content
        return None

    def holders(self, node: str, key: str) -> dict[str, int]:
        """Return what other nodes have of a content, by where they serve it."""
        swarm = self._swarms.get(key)
        if swarm is None:
            return {}
        swarm.drop_silent(time.monotonic())
        return swarm.holders(node)

    def _forget_silent(self, now: float) -> None:
        """Drop nodes of which nothing is heard, and contents that nobody has any more."""
        for key, swarm in list(self._swarms.items()):
            swarm.drop_silent(now)
            if not swarm.members:
                del self._swarms[key], self._contents[key]

    def _swarm(self, content: Content) -> Swarm:
        swarm = self._swarms.setdefault(content.key, Swarm(content.chunks))
        self._contents[content.key] = content
        return swarm
