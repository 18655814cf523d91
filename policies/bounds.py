"""Autoscaled deployments: counts turned into bounds, so that both revisions go on autoscaling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.capacity import Counts, share_of
from policies.layout import Layout
from policies.placing import zone_weights
from policies.view import CellView, ServiceView
from policies.zones import apportion
from specs.cells import CellKey
from specs.desired import AutoScale
from specs.memory import Bounds
from specs.placement import Market, Site


@dataclass(frozen=True, kw_only=True)
class CellGoal:
    """Where a cell's deployment is to go: its counts, its revision's share in basis points, and all the cells."""

    counts: Counts
    share: int
    layout: Layout


def first_bounds(view: ServiceView, key: CellKey, deployment: str, count: int, layout: Layout) -> Bounds:
    """Return the bounds of a new cell: it starts at the lower one.

    `initial_replicas` counts for a first deployment only, and never reaches Serve under that name: in an
    update it would reset the count.
    """
    scale = view.scale(deployment)
    if not isinstance(scale, AutoScale):
        return Bounds(min_replicas=count, max_replicas=count)
    sites, site = layout.of(key.revision), key.site
    part = _parts(view, sites)
    highest = part.of(scale.max_replicas, site, deployment)
    initial = scale.initial_replicas or 0 if view.memory.stable is None else 0
    start = min(max(count, part.of(initial, site, deployment) if initial else 0), highest)
    return Bounds(min_replicas=start, max_replicas=max(start, highest))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How a revision's bounds are divided over its sites; each cell has at least one replica.

    `fixed` sites have the base and do not scale: only what is beyond it comes and goes with the requests. `weights`
    are those of zones that are not to be even, 1 where one is not named.
    """

    sites: Mapping[Site, Mapping[str, int]]
    fixed: frozenset[Site] = frozenset()
    weights: Mapping[str, int] = field(default_factory=dict)

    def of(self, total: int, site: Site, deployment: str) -> int:
        """Return a site's part of a bound."""
        base = {one: self.sites[one][deployment] for one in self.fixed}
        if site in base:
            return base[site]
        scaling = {one: self.weights.get(one.zone or "", 1) for one in self.sites if one not in base}
        rest = total - sum(base.values()) - len(scaling)
        return 1 + apportion(max(0, rest), scaling).get(site, 0)


def _parts(view: ServiceView, sites: Mapping[Site, Mapping[str, int]]) -> Parts:
    return Parts(sites=sites, fixed=fixed_sites(view, sites), weights=zone_weights(view))


def fixed_sites(view: ServiceView, sites: Mapping[Site, Mapping[str, int]]) -> frozenset[Site]:
    """Return the sites of a base that is a count, where there are spot nodes that scale beside it."""
    market = view.spec.placement.market
    if market is None or market.prefer is not Market.SPOT or market.base.is_percent:
        return frozenset()
    stays = frozenset(site for site in sites if site.market is Market.ON_DEMAND)
    return stays if len(stays) < len(sites) else frozenset()


def next_bounds(view: ServiceView, cell: CellView, deployment: str, goal: CellGoal) -> Bounds | None:
    """Return the bounds that bring a deployment to its count while it may scale within its share.

    A growth raises the lower bound; a shrink lowers the upper one. While somebody waits for room the upper one
    stays where it is: Serve would fill the room that was just made. None: leave them.
    """
    counts, sites, site = goal.counts, goal.layout.of(cell.line), cell.memory.key.site
    count = counts.cells[cell.name]
    scale, current = view.bounds_of(cell.revision, deployment), cell.memory.bounds.get(deployment)
    seen = cell.deployment(deployment)
    if scale is None or seen is None:
        return None
    is_moving = any(goal.layout.is_leaving(other) for other in view.cells_of(cell.line))
    part = _parts(view, sites)
    if _is_free(view, cell, deployment, scale) and not (is_moving and count != seen.target) and site in sites:
        low, high = (part.of(bound, site, deployment) for bound in (scale.min_replicas, scale.max_replicas))
        # Never to 0, which a cell has that somebody else stopped: Serve would be free to leave it so, and no request
        # wakes it again, for the gateway sends to replicas only.
        low = max(1, min(low, seen.target + _room_for(view, cell, deployment, goal, part)))
        # An upper bound below the present count is a shrink: it waits until the others carry what goes.
        return Bounds(min_replicas=low, max_replicas=max(low, high, min(count, seen.target)))
    lower = min(current.min_replicas if current else scale.min_replicas, max(1, count))
    may_scale = site in sites and not cell.memory.is_baseline
    highest = part.of(share_of(goal.share, scale.max_replicas), site, deployment) if may_scale else count
    upper = max(count, 1) if counts.is_tight else max(count, highest, 1)
    if count < seen.target:
        return Bounds(min_replicas=min(lower, max(1, count)), max_replicas=max(1, count))
    if count > seen.target:
        return Bounds(min_replicas=count, max_replicas=max(count, upper))
    return Bounds(min_replicas=lower, max_replicas=max(lower, upper))


def _room_for(view: ServiceView, cell: CellView, deployment: str, goal: CellGoal, part: Parts) -> int:
    """Return by how many replicas a lower bound may raise a cell now; cells before it take what they lack first."""
    scale = view.bounds_of(cell.revision, deployment)
    left = goal.counts.room
    for other in view.cells_of(cell.line):
        site, seen = other.memory.key.site, other.deployment(deployment)
        if other.name < cell.name and site in part.sites and seen is not None and scale is not None:
            left -= max(0, part.of(scale.min_replicas, site, deployment) - seen.target)
    return max(0, left)


def _is_free(view: ServiceView, cell: CellView, deployment: str, scale: AutoScale) -> bool:
    """Return whether Serve alone scales: the stable revision's, once it has grown into the room of the old one."""
    is_stable = cell.line == view.memory.stable
    return is_stable and view.memory.candidate is None and not _is_regaining(view, cell, deployment, scale)


def _is_regaining(view: ServiceView, cell: CellView, deployment: str, scale: AutoScale) -> bool:
    """Return whether a revision that just took over still grows into the room of the old one."""
    base = view.memory.base.get(deployment)
    if base is None or cell.deployment(deployment) is None:
        return False
    return view.followed(cell.revision, deployment) < min(base, scale.max_replicas)
