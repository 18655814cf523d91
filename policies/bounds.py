"""Autoscaled deployments: counts turned into bounds, so that both revisions go on autoscaling."""

from __future__ import annotations

from dataclasses import dataclass

from policies.capacity import Counts, share_of
from policies.layout import Layout
from policies.parts import Parts, parts_of
from policies.view import CellView, ServiceView
from specs.cells import CellKey
from specs.desired import AutoScale
from specs.memory import Bounds


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
    part = parts_of(view, sites)
    highest = part.of(scale.max_replicas, site, deployment)
    initial = scale.initial_replicas or 0 if view.memory.stable is None else 0
    start = min(max(count, part.of(initial, site, deployment) if initial else 0), highest)
    return Bounds(min_replicas=start, max_replicas=max(start, highest))


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
    is_moving = any(goal.layout.is_leaving(other) for other in view.cells_of(cell.line)) or bool(
        goal.layout.missing(view, cell.line)
    )
    part = parts_of(view, sites)
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
