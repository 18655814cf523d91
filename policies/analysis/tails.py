"""Upper tails of binned latencies: how many are above a bound, and where a quantile lies."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from specs.evidence import BUCKETS_PER_OCTAVE, SMALLEST, LatencyCounts


class Tail:
    """A histogram summed up from the top. Counts need not be whole: windows can be weighted."""

    __slots__ = ("_buckets", "_reached", "total")

    def __init__(self, buckets: Sequence[tuple[int, float]]) -> None:
        """Take (bucket, count) in ascending order."""
        self._buckets = [bucket for bucket, _ in buckets]
        self._reached = [*accumulate([count for _, count in buckets], initial=0.0)]
        self.total = self._reached[-1]

    def above(self, bucket: int) -> float:
        """Return how many lie above the bucket's upper bound."""
        return self.total - self._reached[bisect_right(self._buckets, bucket)]

    def place(self, share: float) -> float:
        """Return the place on the scale of buckets that `share` of all lie below; infinite for a share of 1 or more.

        Inside a bucket they are taken to be spread evenly on the logarithmic scale.
        """
        wanted = share * self.total
        if share >= 1 or not self._buckets:
            return math.inf
        index = max(bisect_left(self._reached, wanted) - 1, 0)
        inside = (wanted - self._reached[index]) / (self._reached[index + 1] - self._reached[index])
        return self._buckets[index] - 1 + inside


def tail_of(counts: LatencyCounts) -> Tail:
    """Return the tail of one histogram."""
    return Tail(counts.buckets)


def weighted(parts: Iterable[tuple[LatencyCounts, float]]) -> Tail:
    """Return the tail of several histograms together, each one's counts times its weight."""
    counts: dict[int, float] = {}
    for part, weight in parts:
        for bucket, count in part.buckets:
            counts[bucket] = counts.get(bucket, 0.0) + weight * count
    return Tail(sorted(counts.items()))


def seconds_at(place: float) -> float:
    """Return the latency at a place on the scale of buckets."""
    return SMALLEST * 2 ** (place / BUCKETS_PER_OCTAVE)
