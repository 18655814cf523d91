"""Upper tails of binned latencies: how many are above a bound, and where a quantile lies."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from specs.evidence import BUCKETS_PER_OCTAVE, SMALLEST, LatencyCounts


class Tail:
    """A histogram summed up from the top. Counts need not be whole: windows can be weighted."""

    __slots__ = ("_buckets", "_reached", "total")

    def __init__(self, buckets: list[int], reached: list[float]) -> None:
        """Take the buckets in ascending order, and how many lie below each of them and at last below none."""
        self._buckets, self._reached = buckets, reached
        self.total = reached[-1]

    @property
    def sums(self) -> tuple[list[int], list[float]]:
        """Return the buckets that something lies in, and how many lie below each of them and at last below none."""
        return self._buckets, self._reached

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


class Tails:
    """Several histograms as one, each with a weight, without adding them up: a look asks for a few places only."""

    __slots__ = ("_parts", "total")

    def __init__(self, *parts: tuple[Tail, float]) -> None:
        """Take tails with how much an answer of each counts."""
        self._parts = [(*tail.sums, tail.total, weight) for tail, weight in parts if tail.total and weight]
        self.total = sum([weight * total for _, _, total, weight in self._parts])

    def above(self, bucket: int) -> float:
        """Return how many lie above the bucket's upper bound."""
        # A look asks this hundreds of times of a service, and a call to each tail would be most of what it takes.
        return sum(
            [
                weight * (total - reached[bisect_right(buckets, bucket)])
                for buckets, reached, total, weight in self._parts
            ]
        )

    def place(self, share: float) -> float:
        """Return the place that `share` of all lie below, as `Tail.place` does."""
        if share >= 1 or not self._parts:
            return math.inf
        wanted = share * self.total
        low = min([buckets[0] for buckets, *_ in self._parts]) - 1
        high = max([buckets[-1] for buckets, *_ in self._parts])
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.total - self.above(middle) >= wanted else (middle, high)
        before, after = self.total - self.above(low), self.total - self.above(high)
        return low + ((wanted - before) / (after - before) if after > before else 1.0)


def tail_of(counts: LatencyCounts) -> Tail:
    """Return the tail of one histogram. What is summed up for it stays with the histogram, for the next look."""
    return Tail(*counts.cumulated)


def tail_of_sums(counts: Mapping[int, float]) -> Tail:
    """Return the tail of counts per bucket."""
    buckets = sorted(counts)
    return Tail(buckets, [*accumulate([counts[bucket] for bucket in buckets], initial=0.0)])


def added(counts: Mapping[int, float], more: LatencyCounts, weight: float = 1.0) -> dict[int, float]:
    """Return counts per bucket with a histogram's on top, each times `weight`."""
    both = dict(counts)
    get = both.get
    for bucket, count in more.buckets:
        both[bucket] = get(bucket, 0.0) + weight * count
    return both


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What the windows that have ended come to, summed up: no later look has to do it again.

    `weighted` are the stable revision's as if it had had its windows in the candidate's proportion, `spread` the sum
    of squared weights that tells how many answers of equal weight they are worth.
    """

    candidate: Tail
    stable: Tail
    weighted: Tail
    spread: float


Pair = tuple[LatencyCounts, LatencyCounts]
"""One window's latencies, the candidate's and the stable revision's."""


@lru_cache(maxsize=512)
def ended(windows: tuple[Pair, ...]) -> Ended:
    """Return the sums of windows that have ended. As many are kept as a few hundred services in analysis need."""
    candidate: dict[int, float] = {}
    stable: dict[int, float] = {}
    weighted: dict[int, float] = {}
    spread = 0.0
    for mine, theirs in windows:
        candidate, stable = added(candidate, mine), added(stable, theirs)
        if mine.buckets and theirs.buckets:
            weighted = added(weighted, theirs, mine.total / theirs.total)
            spread += mine.total**2 / theirs.total
    return Ended(
        candidate=tail_of_sums(candidate),
        stable=tail_of_sums(stable),
        weighted=tail_of_sums(weighted),
        spread=spread,
    )


def seconds_at(place: float) -> float:
    """Return the latency at a place on the scale of buckets."""
    return SMALLEST * 2 ** (place / BUCKETS_PER_OCTAVE)
