"""What the gateway knows of the traffic: exact counters per cell, and latency from sampled log lines."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reconciler.gateway.admin import Counts
from specs.evidence import LatencyCounts, bucket_of

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds in seconds of the exported histogram: from a cache hit to a long generation."""

CODE_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
"""As in `Counts.codes`."""

WINDOW = timedelta(minutes=1)
SLICE = timedelta(seconds=5)
GROWTH = math.log(1.05)
"""Quantiles are read from buckets 5% apart: finer than anyone compares, and at most 300 of them a slice."""


@dataclass(frozen=True, kw_only=True)
class CellHistogram:
    """Seconds to response headers since the cell's first request. `buckets` are (upper bound, count up to it)."""

    cell: str
    buckets: tuple[tuple[float, int], ...]
    count: int
    total: float


class Latency:
    """One cell's latencies: a cumulative histogram, a minute of finer ones for quantiles, and what to compare."""

    def __init__(self, counts: LatencyCounts | None = None) -> None:
        """Start with the comparable counts of a former daemon."""
        self._counts = Counter(dict(counts.buckets)) if counts else Counter()
        self._cumulative = [0] * (len(BUCKETS) + 1)
        self._total = 0.0
        self._slices: deque[tuple[datetime, Counter[int]]] = deque()

    def add(self, seconds: float, weight: int, now: datetime) -> None:
        """Count one answer that stands for `weight` of them.

        For comparisons it is one: how sure they are depends on how many were timed. The sample is drawn whatever
        the lane, so that of two revisions neither is timed more often.
        """
        self._counts[bucket_of(seconds)] += 1
        place = next((index for index, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
        self._cumulative[place] += weight
        self._total += seconds * weight
        if not self._slices or now - self._slices[-1][0] >= SLICE:
            self._slices.append((now, Counter()))
            self._forget(now)
        # HAProxy counts whole milliseconds; 0 is less than one.
        self._slices[-1][1][math.ceil(math.log(max(seconds, 0.001) * 1000) / GROWTH)] += weight

    def quantile(self, share: float, now: datetime) -> timedelta | None:
        """Return the latency that `share` of the last minute's answers stayed below, None without answers."""
        self._forget(now)
        merged: Counter[int] = Counter()
        for _, counts in self._slices:
            merged.update(counts)
        wanted = math.ceil(share * merged.total())
        reached = 0
        for bucket in sorted(merged):
            reached += merged[bucket]
            if reached >= wanted:
                return timedelta(seconds=math.exp(bucket * GROWTH) / 1000)
        return None

    @property
    def counts(self) -> LatencyCounts:
        """Return the answers that were timed, each once, since the cell's first."""
        return LatencyCounts.of(self._counts)

    def histogram(self, cell: str) -> CellHistogram:
        """Return the cumulative histogram."""
        reached = 0
        buckets: list[tuple[float, int]] = []
        for bound, count in zip((*BUCKETS, math.inf), self._cumulative, strict=True):
            reached += count
            buckets.append((bound, reached))
        return CellHistogram(cell=cell, buckets=tuple(buckets), count=reached, total=self._total)

    def _forget(self, now: datetime) -> None:
        while self._slices and now - self._slices[0][0] > WINDOW:
            self._slices.popleft()


@dataclass(frozen=True, kw_only=True)
class LedgerState:
    """What of a ledger outlives the daemon. Keys of `read` and `read_unrouted` are `GENERATION:NAME`."""

    totals: Mapping[str, Counts] = field(default_factory=dict)
    unrouted: Mapping[str, int] = field(default_factory=dict)
    read: Mapping[str, Counts] = field(default_factory=dict)
    read_unrouted: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """Counters per cell, summed over HAProxy processes and lane leases.

    A process's counters start at 0 and only grow, so what is new since the last reading belongs to the
    cell that holds the lane now: a lane cools until its last count was read.
    """

    def __init__(self, state: LedgerState | None = None) -> None:
        """Start where a former daemon left off."""
        state = state or LedgerState()
        self.totals = dict(state.totals)
        self.unrouted = dict(state.unrouted)
        self._read = dict(state.read)
        self._read_unrouted = dict(state.read_unrouted)

    def credit(self, cell: str, generation: int, lane: str, counts: Counts) -> None:
        """Take a reading of a lane's counters."""
        key = f"{generation}:{lane}"
        self.totals[cell] = self.totals.get(cell, Counts()) + (counts - self._read.get(key, Counts()))
        self._read[key] = counts

    def credit_unrouted(self, cell: str, generation: int, service: str, count: int) -> None:
        """Take a reading of a service's own 503s, for the cell that should have answered."""
        key = f"{generation}:{service}"
        self.unrouted[cell] = self.unrouted.get(cell, 0) + count - self._read_unrouted.get(key, 0)
        self._read_unrouted[key] = count

    def of(self, cell: str) -> Counts:
        """Return a cell's counters."""
        return self.totals.get(cell, Counts())

    def keep(self, cells: Iterable[str], generations: Iterable[int]) -> None:
        """Forget cells that hold no lane any more, and processes that ended: names are never used again."""
        kept = frozenset(cells)
        alive = frozenset(map(str, generations))
        self.totals = {cell: counts for cell, counts in self.totals.items() if cell in kept}
        self.unrouted = {cell: count for cell, count in self.unrouted.items() if cell in kept}
        self._read = {key: counts for key, counts in self._read.items() if key.partition(":")[0] in alive}
        self._read_unrouted = {
            key: count for key, count in self._read_unrouted.items() if key.partition(":")[0] in alive
        }

    def state(self) -> LedgerState:
        """Return what is to be saved."""
        return LedgerState(
            totals=dict(self.totals),
            unrouted=dict(self.unrouted),
            read=dict(self._read),
            read_unrouted=dict(self._read_unrouted),
        )
