"""Spot nodes and those that stay, inside the zones: arithmetic without a service in it.

How many replicas a zone has is settled before, and is even. Here each zone's replicas are divided between its two
markets. A zone that has both in use has two cells, and each of them needs a replica of every deployment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from specs.placement import Market

Counts = Mapping[str, int]
"""Replicas per deployment."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One zone: how many replicas it has, and what may be said of its markets.

    `markets` are those where cells may be, `caps` the most of a market that has no more room; `rank` orders the zones
    in which replicas on demand come first: where they are already.
    """

    name: str
    total: Counts
    markets: frozenset[Market]
    caps: Mapping[Market, Counts] = field(default_factory=dict)
    rank: int = 0

    @property
    def is_divisible(self) -> bool:
        """Return whether both markets can have a cell."""
        return len(self.markets) > 1 and min(self.total.values()) > 1

    def least(self, name: str) -> int:
        """Return how many of a deployment have to be on demand, since spot nodes have no room for them."""
        if len(self.markets) < 2:
            return self.total[name] if Market.ON_DEMAND in self.markets else 0
        return self.total[name] - min(self.total[name], self._cap(Market.SPOT, name))

    def most(self, name: str) -> int:
        """Return how many of a deployment can be on demand."""
        if len(self.markets) < 2:
            return self.least(name)
        return max(self.least(name), min(self.total[name], self._cap(Market.ON_DEMAND, name)))

    def excess(self, part: Counts) -> int:
        """Return how many replicas have no room where they would be if `part` of them were on demand."""
        return sum(
            max(0, count - self._cap(Market.ON_DEMAND, name))
            + max(0, self.total[name] - count - self._cap(Market.SPOT, name))
            for name, count in part.items()
        )

    def _cap(self, market: Market, name: str) -> int:
        return self.caps.get(market, {}).get(name, self.total[name])


def on_demand(plots: Sequence[Plot], base: Counts, cells: int) -> Mapping[str, Counts]:
    """Return how many replicas of each zone are on demand: `base` of each deployment, over as many zones as can be.

    At most `cells` cells come of it, or one per zone. The base is exact where the counts allow it, else it is more:
    a zone with one replica is in one market, and of several deployments the one of whose replicas the base is the
    largest part decides for the others. Less than the base is on demand only where there is no room for it.
    """
    order = sorted(plots, key=lambda plot: (plot.rank, plot.name))
    both = [plot for plot in order if len(plot.markets) > 1]
    fixed = {plot.name: {name: plot.least(name) for name in plot.total} for plot in order if len(plot.markets) < 2}
    wanted = {
        name: max(0, count - sum(counts[name] for counts in fixed.values())) for name, count in _evened(order, base)
    }
    small = sorted(both, key=lambda plot: (max(plot.total.values()), plot.rank, plot.name))
    ways = [
        _over(way[:count], way[count:], wanted, cells - len(order))
        for way in (both, small)
        for count in range(len(way) + 1)
    ]
    least = {name: min(base[name], sum(plot.most(name) for plot in both)) for name in base}
    best = min(ways, key=lambda way: (_excess(both, way), _badness(way, wanted, least)))
    return fixed | best


def _evened(plots: Sequence[Plot], base: Counts) -> Iterator[tuple[str, int]]:
    """Raise each deployment's base to the largest part that it is of any: a cell carries what its least part does."""
    totals = {name: sum(plot.total[name] for plot in plots) for name in base}
    number, of = 0, 1
    for name, count in base.items():
        if count * of > number * max(1, totals[name]):
            number, of = count, max(1, totals[name])
    for name in base:
        yield name, -(-number * totals[name] // of)


def _excess(plots: Iterable[Plot], way: Mapping[str, Counts]) -> int:
    return sum(plot.excess(way[plot.name]) for plot in plots)


def _badness(way: Mapping[str, Counts], wanted: Counts, least: Counts) -> tuple[int, int, int]:
    """Order ways that have as much room: nothing of the base missing, as exact as can be, over the most zones."""
    got = {name: sum(counts[name] for counts in way.values()) for name in wanted}
    missing = sum(max(0, min(least[name], wanted[name]) - got[name]) for name in wanted)
    wrong = sum(abs(got[name] - wanted[name]) for name in wanted)
    return missing, wrong, -sum(1 for counts in way.values() if any(counts.values()))


def _over(chosen: Sequence[Plot], others: Sequence[Plot], wanted: Counts, splits: int) -> dict[str, Counts]:
    """Divide `wanted` over the chosen zones; in the others only what has no room on spot nodes is on demand."""
    parts = {plot.name: {name: plot.least(name) for name in plot.total} for plot in (*chosen, *others)}
    for name, count in wanted.items():
        for _ in range(count - sum(part[name] for part in parts.values())):
            able = [plot for plot in chosen if parts[plot.name][name] < plot.most(name)]
            if not able:
                break
            plot = min(able, key=lambda plot: (parts[plot.name][name], -plot.total[name], plot.rank, plot.name))
            parts[plot.name][name] += 1
    left = splits
    for plot in (*chosen, *others):
        found = _whole_cells(plot, parts[plot.name], may_split=left > 0)
        left -= 1 if any(0 < found[name] < plot.total[name] for name in found) else 0
        parts[plot.name] = found
    return {name: dict(counts) for name, counts in parts.items()}


def _whole_cells(plot: Plot, part: Counts, *, may_split: bool) -> dict[str, int]:
    """Return a zone's part with every cell whole: each one has a replica of every deployment, or is not there.

    A zone that is not divided is all in one market: on demand, unless that has no room for it and spot nodes have.
    Where dividing it is what there is room for, less than the base is on demand.
    """
    if not any(part.values()):
        return dict(part)
    divided = {name: max(1, min(count, plot.total[name] - 1)) for name, count in part.items()}
    is_filled = any(part[name] == count for name, count in plot.total.items())
    whole: list[Counts] = [plot.total, dict.fromkeys(plot.total, 0)]
    if may_split and plot.is_divisible:
        whole.insert(1 if is_filled else 0, divided)
    best = min(whole, key=plot.excess)
    return dict(best)
