"""What the traffic of one revision says: counts that add up over cells and subtract into windows of time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from itertools import accumulate
from operator import lt

from specs.snapshot import Snapshot

SMALLEST = 0.0001
"""Seconds; what is faster lies in bucket 0."""

BUCKETS_PER_OCTAVE = 32
"""Each bucket's bound is 2.2% above the one before. A quantile is placed inside its bucket by the counts around
it, so that the width costs a comparison nothing that can be measured; ten times wider ones would hide a change of
a fifth. From 0.1 ms to ten minutes there are 721 buckets, of which a service fills some 60 to 250."""

LONGEST = timedelta(hours=480)
"""The longest `maxRequestDuration`; what took longer shares one bucket above it."""

OVERFLOW = math.ceil(math.log2(LONGEST.total_seconds() / SMALLEST) * BUCKETS_PER_OCTAVE) + 1
"""The bucket of everything beyond `LONGEST`."""

CLIENT_GROUPS = 64
"""Groups that clients are put into by a hash of their id. Errors of one client come together; how unevenly errors
lie over the groups tells how much less they say than so many errors of different clients. Fewer groups tell it
less surely, more cost memory in each cell."""

COARSE = 8
"""A group's latencies are rounded up to buckets whose number is a multiple of this (19% wide): they only tell how
unevenly what is slow lies over groups, and there are 64 times as many of them to keep. What was above such a bound
stays above it, so that there, and nowhere between, groups are exact."""

RESET = "are not a later reading: they were reset in between"


def bucket_of(seconds: float) -> int:
    """Return the bucket of a latency in seconds: `bound_of(bucket - 1) < seconds <= bound_of(bucket)`."""
    if seconds <= SMALLEST:
        return 0
    # Without the small step back, a bound itself could fall into the bucket above it by a rounding error.
    return min(math.ceil(math.log2(seconds / SMALLEST) * BUCKETS_PER_OCTAVE - 1e-9), OVERFLOW)


def bound_of(bucket: int) -> float:
    """Return a bucket's upper bound in seconds; infinite for the last one."""
    return math.inf if bucket >= OVERFLOW else SMALLEST * 2 ** (bucket / BUCKETS_PER_OCTAVE)


@dataclass(frozen=True, kw_only=True)
class LatencyCounts(Snapshot):
    """A histogram over fixed buckets. `buckets` are (bucket, count), ascending, counts above 0.

    A count is one answer that was timed. When only a sample of the answers is timed, count each one once, not
    by the number of answers that it stands for: how sure a comparison is depends on how many were timed.
    """

    buckets: tuple[tuple[int, int], ...] = ()

    def __hash__(self) -> int:
        """Return the same for the same counts. Reckoned once: windows that have ended are looked up at every look."""
        return self._digest

    @cached_property
    def _digest(self) -> int:
        return hash(self.buckets)

    @cached_property
    def cumulated(self) -> tuple[list[int], list[float]]:
        """Return the buckets, and how many lie below each of them and at last below none. Reckoned once."""
        reached = accumulate([count for _, count in self.buckets], initial=0.0)
        return [bucket for bucket, _ in self.buckets], [*reached]

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> LatencyCounts:
        """Return the histogram with these counts per bucket. Raises ValueError for a negative one."""
        if any(count < 0 for count in counts.values()):
            raise ValueError("a histogram cannot hold fewer than no answers")
        return cls(buckets=tuple(sorted((bucket, count) for bucket, count in counts.items() if count)))

    @classmethod
    def from_seconds(cls, latencies: Iterable[float]) -> LatencyCounts:
        """Return the histogram of latencies in seconds."""
        return cls.of(Counter(map(bucket_of, latencies)))

    @property
    def total(self) -> int:
        """Return how many answers were timed."""
        return int(self.cumulated[1][-1])

    def covers(self, earlier: LatencyCounts) -> bool:
        """Return whether this can be a later reading than `earlier`: no count has fallen."""
        mine = dict(self.buckets)
        return all(mine.get(bucket, 0) >= count for bucket, count in earlier.buckets)

    def __add__(self, other: LatencyCounts) -> LatencyCounts:
        """Return both together."""
        counts = dict(self.buckets)
        for bucket, count in other.buckets:
            counts[bucket] = counts.get(bucket, 0) + count
        return LatencyCounts(buckets=tuple(sorted(counts.items())))

    def __sub__(self, earlier: LatencyCounts) -> LatencyCounts:
        """Return what came after `earlier`. Raises ValueError when a count has fallen since."""
        if not earlier.buckets:
            return self
        counts = dict(self.buckets)
        for bucket, count in earlier.buckets:
            counts[bucket] = counts.get(bucket, 0) - count
            if counts[bucket] < 0:
                raise ValueError(f"these latencies {RESET}")
        return LatencyCounts.of(counts)


@dataclass(frozen=True, kw_only=True)
class Evidence(Snapshot):
    """Counts of one revision's traffic: since its first request, or of a window between two readings.

    `requests` were sent to a replica. `errors` of them got a 5xx from it or no answer, `aborted` were given up by
    the client. `unrouted` were the gateway's own 503s and are no part of `requests`. `latency` holds times to
    response headers; it may come from a sample.

    `clients` is the same traffic once more, by groups of clients (`CLIENT_GROUPS`, in a fixed order, themselves
    without groups); empty when the gateway does not tell clients apart. Both revisions must be grouped by the same
    hash, and that one must be another than the one which chooses the revision.
    """

    requests: int = 0
    errors: int = 0
    aborted: int = 0
    unrouted: int = 0
    latency: LatencyCounts = field(default_factory=LatencyCounts)
    clients: tuple[Evidence, ...] = ()

    def __hash__(self) -> int:
        """Return the same for the same counts. Reckoned once: with groups of clients these are long."""
        return self._digest

    @cached_property
    def _digest(self) -> int:
        return hash((self._counters(), self.latency, self.clients))

    @property
    def judged(self) -> int:
        """Return the requests that have ended well or badly: those given up by the client say neither."""
        return max(self.requests - self.aborted, self.errors)

    def covers(self, earlier: Evidence) -> bool:
        """Return whether this can be a later reading than `earlier`: no counter has fallen, as after a reset."""
        mine, theirs = self._counters(), earlier._counters()
        return (
            all(now >= then for now, then in zip(mine, theirs, strict=True))
            and self.latency.covers(earlier.latency)
            and len(self.clients) >= len(earlier.clients)
            and all(now.covers(then) for now, then in zip(self.clients, earlier.clients, strict=False))
        )

    def __add__(self, other: Evidence) -> Evidence:
        """Return both together. Groups are lost when only one side has them: half of the traffic is no group."""
        return Evidence(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            aborted=self.aborted + other.aborted,
            unrouted=self.unrouted + other.unrouted,
            latency=self.latency + other.latency,
            clients=self._grouped(other, Evidence.__add__),
        )

    def __sub__(self, earlier: Evidence) -> Evidence:
        """Return what came after `earlier`. Raises ValueError when a counter has fallen since (see `covers`)."""
        mine, theirs = self._counters(), earlier._counters()
        if len(self.clients) < len(earlier.clients) or any(map(lt, mine, theirs)):
            raise ValueError(f"these counters {RESET}")
        return Evidence(
            requests=self.requests - earlier.requests,
            errors=self.errors - earlier.errors,
            aborted=self.aborted - earlier.aborted,
            unrouted=self.unrouted - earlier.unrouted,
            latency=self.latency - earlier.latency,
            clients=self._grouped(earlier, Evidence.__sub__),
        )

    def _grouped(self, other: Evidence, combined: Callable[[Evidence, Evidence], Evidence]) -> tuple[Evidence, ...]:
        if len(self.clients) == len(other.clients):
            return tuple(map(combined, self.clients, other.clients))
        if not other.requests and not other.clients:
            return self.clients
        return other.clients if not self.requests and not self.clients else ()

    def _counters(self) -> tuple[int, int, int, int]:
        return (self.requests, self.errors, self.aborted, self.unrouted)


@dataclass(frozen=True, kw_only=True)
class Window(Snapshot):
    """Both revisions' evidence of the same stretch of time, in which their weights did not change.

    Weights matter: when the candidate gets more of the traffic just as everything becomes slower, its sums look
    worse than the stable revision's although it never was. Judged window by window it does not.
    """

    candidate: Evidence
    stable: Evidence
