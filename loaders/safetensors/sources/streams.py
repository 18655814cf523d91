"""How many reads at a time an origin is worth, learned while loading."""

from __future__ import annotations

import os
import threading


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Streams:
    """Grows while reads mostly wait (more of them hide latency), shrinks when the origin pushes back.

    A stream that is busy for a fraction `b` of its time keeps `cores / b` streams from being worth more.
    """

    def __init__(self, *, first: int, most: int, hedged: bool = False) -> None:
        """`first` at the start, never more than `most`. `hedged`: reads that take too long may be asked for twice."""
        self.hedged = hedged
        self._lock = threading.Lock()
        self._most = most
        self._wanted = min(first, most)

    @property
    def wanted(self) -> int:
        """How many reads there should be now."""
        return self._wanted

    def served(self, wall: float, cpu: float) -> None:
        """One chunk took `wall` seconds, `cpu` of them on a core."""
        useful = int(cores() * wall / max(cpu, 1e-6))
        with self._lock:
            if useful > self._wanted:
                self._wanted = min(self._most, max(2 * self._wanted, 1))

    def pushed_back(self) -> None:
        """The origin said that it is too much: half as many, and no growth beyond that."""
        with self._lock:
            self._wanted = max(1, self._wanted // 2)
            self._most = max(self._wanted, self._most - 1)
