"""Autoscaled deployments: counts turned into bounds, so that both revisions go on autoscaling."""

from __future__ import annotations

from policies.capacity import Counts, share_of
from policies.view import CellView, ServiceView
from specs.desired import AutoScale
from specs.memory import Bounds


def first_bounds(view: ServiceView, deployment: str, count: int) -> Bounds:
    """Return the bounds of a new cell: it starts at the lower one.

    `initial_replicas` counts for a first deployment only, and never reaches Serve under that name: in an
    update it would reset the count.
    """
    scale = view.scale(deployment)
    if not isinstance(scale, AutoScale):
        return Bounds(min_replicas=count, max_replicas=count)
    initial = scale.initial_replicas or 0 if view.memory.stable is None else 0
    start = min(max(count, initial), scale.max_replicas)
    return Bounds(min_replicas=start, max_replicas=max(start, scale.max_replicas))


def next_bounds(view: ServiceView, cell: CellView, deployment: str, counts: Counts, share: int) -> Bounds | None:
    """Return the bounds that bring a deployment to its count while it may scale within its `share`.

    `share` is in basis points. A growth raises the lower bound; a shrink lowers the upper one. While
    somebody waits for room the upper one stays where it is: Serve would fill the room that was just made.
    None: leave them.
    """
    count = counts.now[cell.revision]
    scale, current = view.bounds_of(cell.revision, deployment), cell.memory.bounds.get(deployment)
    seen = cell.deployment(deployment)
    if scale is None or seen is None:
        return None
    is_stable = cell.revision == view.memory.stable
    if is_stable and view.memory.candidate is None and not _is_regaining(view, cell, deployment, scale):
        return Bounds(min_replicas=scale.min_replicas, max_replicas=scale.max_replicas)
    lower = min(current.min_replicas if current else scale.min_replicas, max(1, count))
    upper = max(count, 1) if counts.is_tight else max(count, share_of(share, scale.max_replicas), 1)
    if count < seen.target:
        return Bounds(min_replicas=min(lower, max(1, count)), max_replicas=max(1, count))
    if count > seen.target:
        return Bounds(min_replicas=count, max_replicas=max(count, upper))
    return Bounds(min_replicas=lower, max_replicas=max(lower, upper))


def _is_regaining(view: ServiceView, cell: CellView, deployment: str, scale: AutoScale) -> bool:
    """Return whether a revision that just took over still grows into the room of the old one."""
    base = view.memory.base.get(deployment)
    seen = cell.deployment(deployment)
    return base is not None and seen is not None and seen.target < min(base, scale.max_replicas)
