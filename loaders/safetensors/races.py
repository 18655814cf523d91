"""A chunk on its way to a node, from one source or from several at once: who is late, who wins, and what it may cost.

A peer that is slow to begin, or takes far longer than chunks usually do, gets a rival. The first whose bytes are
complete and right wins; the others are broken off. What they had received is in vain, and that is bounded.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque

from loaders.safetensors.errors import LoadError
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.swarm import Assignment

BEGINS_WITHIN, BEGINS_AT_LEAST, BEGINS_UNKNOWN = 0.5, 0.5, 1.0
"""A peer should begin to send within this share of what a chunk usually takes. It is given at least half a second, as
long as a busy process pauses, and a second while nobody knows what is usual."""

TAKES, TAKES_AT_LEAST, TAKES_UNKNOWN = 3.0, 1.0, 2.0
"""One that has begun may take so many times what a chunk usually takes; then seconds: at least, and while unknown."""

USUAL_OF, USUAL_FROM = 32, 3
"""The last chunks tell what is usual, once there are a few."""

MOST_RUNNERS = 3
"""Of one chunk: a rival may be silent too, but nothing is asked for without end."""

MOST_LATE = 4
"""Late requests at a time: as many as a node has slots for peers, so that one silent peer cannot take them all."""

MOST_IN_VAIN = 0.05
"""Of a content's bytes, this share may be received twice; a small content may lose `MOST_LATE` chunks."""


class Overtaken(LoadError):
    """Another request for the same chunk was faster; no caller ever sees this."""


class Runner:
    """One request for a chunk. `begun` and `received` are set by the thread that makes it."""

    def __init__(self, assignment: Assignment) -> None:
        """It begins now."""
        self.assignment = assignment
        self.interrupt = Interrupt()
        self.began = time.monotonic()
        self.begun = self.late = False
        self.received = 0


class Race:
    """All requests for one chunk."""

    def __init__(self) -> None:
        """Nobody has won."""
        self.runners: list[Runner] = []
        self.winner: Runner | None = None
        self._lock = threading.Lock()

    def wins(self, runner: Runner) -> bool:
        """Tell whether this one, whose bytes are complete and right, is the first; the others are broken off then."""
        with self._lock:
            if self.winner is not None:
                return self.winner is runner
            self.winner = runner
            others = [other for other in self.runners if other is not runner]
        for other in others:
            other.interrupt.fire(Overtaken("another request was faster"))
        return True

    def add(self, runner: Runner) -> None:
        """One more request; it is broken off at once where somebody has won already."""
        with self._lock:
            self.runners.append(runner)
            won = self.winner is not None
        if won:
            runner.interrupt.fire(Overtaken("another request was faster"))

    def end(self, runner: Runner) -> None:
        """Take out a request that is over."""
        with self._lock:
            self.runners.remove(runner)


class Patience:
    """Learns what a chunk usually takes, and says when a request is late. Used by one thread."""

    def __init__(self, size: int, chunk_size: int) -> None:
        """Of a content of so many bytes, in chunks of so many."""
        self._chunk_size = chunk_size
        self._allowed = max(MOST_LATE * chunk_size, int(MOST_IN_VAIN * size))
        self._times: deque[float] = deque(maxlen=USUAL_OF)
        self.late = 0
        self.in_vain = 0

    def took(self, seconds: float) -> None:
        """A chunk has come, and took so long."""
        self._times.append(seconds)

    def lasts(self, *, begun: bool) -> float:
        """Return for how many seconds a request that has begun to send, or has not, is not late."""
        share, least, unknown = (
            (TAKES, TAKES_AT_LEAST, TAKES_UNKNOWN) if begun else (BEGINS_WITHIN, BEGINS_AT_LEAST, BEGINS_UNKNOWN)
        )
        if len(self._times) < USUAL_FROM:
            return unknown
        return max(least, share * statistics.median(self._times))

    def ends(self, race: Race, now: float) -> bool:
        """Tell whether the last request of a race is late as of now, and may have a rival."""
        runner = race.runners[-1]
        able = runner.assignment.source is not None and not runner.late and len(race.runners) < MOST_RUNNERS
        if race.winner is not None or not able or now - runner.began < self.lasts(begun=runner.begun):
            return False
        # Each of those that are late now may lose with all but its last byte received.
        affordable = self.in_vain + (self.late + 1) * self._chunk_size <= self._allowed
        return self.late < MOST_LATE and affordable
