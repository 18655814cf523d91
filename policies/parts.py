"""A bound of an autoscaled deployment, divided over the cells of a revision: even over zones, then by market."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.placing import zone_weights
from policies.view import ServiceView
from policies.zones import apportion
from specs.amount import Amount
from specs.placement import Market, Site

Zone = str | None

ALL = Amount(value=100, is_percent=True)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How a revision's bounds are divided over its sites; each cell has at least one replica.

    `sites` have the counts of the present layout. `base` is how much of a bound is on demand, where zones have cells of
    both markets. `weights` are those of zones that are not to be even, 1 where one is not named.
    """

    sites: Mapping[Site, Mapping[str, int]]
    base: Amount = ALL
    weights: Mapping[str, int] = field(default_factory=dict)

    def of(self, total: int, site: Site, deployment: str) -> int:
        """Return a site's part of a bound."""
        zones = self._by_zone(total)
        whole = zones[site.zone]
        if self._cells(site.zone) < 2:
            return whole
        on_demand = self._on_demand(zones, self._share(total, deployment))[site.zone]
        return on_demand if site.market is Market.ON_DEMAND else whole - on_demand

    def _cells(self, zone: Zone) -> int:
        return sum(1 for site in self.sites if site.zone == zone)

    def _by_zone(self, total: int) -> Mapping[Zone, int]:
        """Divide a bound over the zones; one whose part is smaller than its cells need has one for each cell."""
        least = {site.zone: self._cells(site.zone) for site in self.sites}
        pinned: dict[Zone, int] = {}
        while True:
            free = {zone: self.weights.get(zone or "", 1) for zone in least if zone not in pinned}
            parts = apportion(max(0, total - sum(pinned.values())), free)
            small = [zone for zone, part in parts.items() if part < least[zone]]
            if not small:
                return pinned | parts
            pinned |= {zone: least[zone] for zone in small}

    def _on_demand(self, zones: Mapping[Zone, int], wanted: int) -> Mapping[Zone, int]:
        """Return what is on demand in each zone that has cells of both markets: as even as can be."""
        alone = sum(
            zones[site.zone] for site in self.sites if site.market is Market.ON_DEMAND and self._cells(site.zone) < 2
        )
        both = {zone: whole - 1 for zone, whole in zones.items() if self._cells(zone) > 1}
        return _filled(dict.fromkeys(both, 1), both, wanted - alone)

    def _share(self, total: int, deployment: str) -> int:
        """Return how much of a bound is on demand.

        Where one of the markets is short the layout has another share than the base, and the bounds follow it: a cell
        that stands in for others may grow, too.
        """
        counts = {site: counts[deployment] for site, counts in self.sites.items()}
        whole = sum(counts.values())
        have = sum(count for site, count in counts.items() if site.market is Market.ON_DEMAND)
        if have == min(whole, self.base.round_up(whole)):
            return min(total, self.base.round_up(total))
        return -(-total * have // max(1, whole))


def _filled(parts: dict[Zone, int], most: Mapping[Zone, int], total: int) -> Mapping[Zone, int]:
    """Raise parts evenly until they are `total` together or at their `most`; of what is left over the first have more.

    Lower and upper bounds go through the same zones in the same order, so that no lower one is above its upper one.
    """
    while (left := total - sum(parts.values())) > 0 and (able := [zone for zone in parts if parts[zone] < most[zone]]):
        for zone in able[: left if left < len(able) else None]:
            parts[zone] += min(max(1, left // len(able)), most[zone] - parts[zone])
    return parts


def parts_of(view: ServiceView, sites: Mapping[Site, Mapping[str, int]]) -> Parts:
    """Return how a revision's bounds are divided over its sites.

    A base that is a count is the same part of both bounds, and so does not scale: only what is beyond it comes and
    goes with the requests. Of one that is a percentage both parts do.
    """
    market = view.spec.placement.market
    base = market.base if market is not None and market.prefer is Market.SPOT else ALL
    return Parts(sites=sites, base=base, weights=zone_weights(view))
