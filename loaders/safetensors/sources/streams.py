"""How many reads at a time an origin is worth, learned while loading."""

from __future__ import annotations

import os
import threading

GAIN = 1.2
"""Twice as many streams must bring at least this much more: an origin, a network or cores that are busy bring none."""
FEWEST_AT_A_LEVEL = 4
SETTLED_FOR = 8
"""After so many times the chunks of a trial that brought nothing, it is tried again: what was busy may be free."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Streams:
    """Doubles while that makes reading faster, goes back where it did not, shrinks when the origin pushes back.

    That reads mostly wait is reason to try more of them, and no proof: on a busy machine they wait for a core, and more
    of them only get into each other's way. What counts is how many bytes come in all.
    """

    def __init__(self, *, first: int, most: int, hedged: bool = False) -> None:
        """`first` at the start, never more than `most`. `hedged`: reads that take too long may be asked for twice."""
        self.hedged = hedged
        self._lock = threading.Lock()
        self._most = most
        self._wanted = min(first, most)
        self._rate_before = 0.0
        self._rests = 0
        self._begin(None)

    def _begin(self, now: float | None) -> None:
        self._began = now
        self._chunks = self._bytes = 0

    @property
    def wanted(self) -> int:
        """How many reads there should be now."""
        return self._wanted

    def served(self, size: int, *, wall: float, cpu: float, now: float) -> None:
        """One chunk of `size` bytes took `wall` seconds, `cpu` of them on a core, until `now`."""
        with self._lock:
            self._chunks += 1
            self._bytes += size
            if self._chunks < max(FEWEST_AT_A_LEVEL, self._wanted):
                return
            if self._began is not None:  # What comes in first came in parts, all streams at a time: it is not judged.
                # A stream that is busy for a fraction `b` of its time keeps `cores / b` of them from being worth more.
                waits = cores() * wall / max(cpu, 1e-6) > self._wanted
                self._judge(self._bytes / max(now - self._began, 1e-6), waits=waits)
            self._begin(now)

    def _judge(self, rate: float, *, waits: bool) -> None:
        if self._rests:
            self._rests -= 1
        elif self._rate_before and rate < GAIN * self._rate_before:
            self._wanted = max(1, self._wanted // 2)
            self._rate_before, self._rests = 0.0, SETTLED_FOR
        elif waits and self._wanted < self._most:
            self._rate_before = rate
            self._wanted = min(self._most, 2 * self._wanted)
        else:
            self._rate_before = 0.0

    def pushed_back(self) -> None:
        """The origin said that it is too much: half as many, and no growth beyond that."""
        with self._lock:
            self._wanted = max(1, self._wanted // 2)
            self._most = max(self._wanted, self._most - 1)
            self._rate_before = 0.0
            self._begin(None)
