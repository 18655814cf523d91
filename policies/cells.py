"""Cells that come and go: of the candidate, and of a revision that stays where its replicas move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from policies.baseline import is_pending
from policies.bounds import first_bounds
from policies.capacity import Counts
from policies.layout import Layout
from policies.retirement import is_due, leave
from policies.shares import departures
from policies.view import ServiceView
from specs.cells import CellKey
from specs.decisions import Decision, Hold, StartRevision
from specs.desired import FixedScale
from specs.memory import Bounds
from specs.placement import Site
from specs.reasons import Reason


def create(view: ServiceView, counts: Mapping[str, Counts], layout: Layout) -> tuple[Decision, ...]:
    """Create the cells that are missing as soon as each of their listed deployments has room for one replica.

    What serves comes before what is new, unless it lacks no replica and only moves.
    """
    candidate, stable = view.memory.candidate, view.memory.stable
    room = {name: found.room for name, found in counts.items()}
    order = (stable, candidate) if _is_short(view, counts) else (candidate, stable)
    decisions: list[Decision] = []
    for revision in order:
        make = _pair if revision == candidate and is_pending(view) else _alone
        for site in layout.missing(view, revision) if revision else ():
            made = make(view, revision or "", site, layout, room)
            if not made:
                break
            decisions += made
    is_waiting = candidate is not None and not view.cells_of(candidate)
    if is_waiting and not any(isinstance(one, StartRevision) and one.cell.revision == candidate for one in decisions):
        decisions += _no_room(view, candidate or "", counts)
    return tuple(decisions)


def _alone(
    view: ServiceView, revision: str, site: Site, layout: Layout, room: dict[str, int]
) -> tuple[StartRevision, ...]:
    made = _cell(view, revision, site, layout, room)
    return (made,) if made is not None else ()


def _pair(
    view: ServiceView, candidate: str, site: Site, layout: Layout, room: dict[str, int]
) -> tuple[StartRevision, ...]:
    """Return a candidate's cell and its baseline's in the same place: both at once, for they are to be of one age."""
    half = {name: free // 2 for name, free in room.items()}
    made, stable = _cell(view, candidate, site, layout, half), view.memory.stable
    record = view.memory.revision(stable or "")
    if made is None or record is None or stable is None:
        return ()
    sizes = {name: bounds.min_replicas for name, bounds in made.bounds.items()} | dict(made.counts)
    listed = [one.name for one in record.deployments if one.scale is not None]
    first = {name: sizes.get(name, 1) for name in listed}
    if any(room[name] < count + sizes.get(name, 0) for name, count in first.items()):
        return ()
    for name in room:
        room[name] -= sizes.get(name, 0) + first.get(name, 0)
    used = (cell.memory.key.generation + 1 for cell in view.cells if cell.revision == stable)
    generation = max([view.memory.generations.get(stable, 0), *used])
    key = CellKey(service=view.name, revision=stable, zone=site.zone, market=site.market, generation=generation)
    fixed = {name: count for name, count in first.items() if isinstance(view.scale(name), FixedScale)}
    bounds = {n: Bounds(min_replicas=c, max_replicas=c) for n, c in first.items() if n not in fixed}
    return made, StartRevision(service=view.name, cell=key, counts=fixed, bounds=bounds, is_baseline=True)


def _is_short(view: ServiceView, counts: Mapping[str, Counts]) -> bool:
    """Return whether the stable revision lacks replicas that it has no cell for."""
    stable = view.memory.stable
    if stable is None:
        return False
    cells = view.cells_of(stable)
    return any(
        sum(found.cells.get(cell.name, 0) for cell in cells) < found.goal.get(stable, 0) for found in counts.values()
    )


def _cell(view: ServiceView, revision: str, site: Site, layout: Layout, room: dict[str, int]) -> StartRevision | None:
    """Return a new cell with as much of its layout as there is room for, which it takes; None when there is none."""
    record = view.memory.revision(revision)
    if record is None:
        return None
    listed = [one.name for one in record.deployments if one.scale is not None]
    first = {name: min(room[name], layout.of(revision)[site][name]) for name in listed}
    if any(count < 1 for count in first.values()):
        return None
    for name, count in first.items():
        room[name] -= count
    generation = view.memory.generations.get(revision, 0)
    key = CellKey(service=view.name, revision=revision, zone=site.zone, market=site.market, generation=generation)
    fixed = {name: count for name, count in first.items() if isinstance(view.scale(name), FixedScale)}
    bounds = {name: first_bounds(view, key, name, count, layout) for name, count in first.items() if name not in fixed}
    return StartRevision(service=view.name, cell=key, counts=fixed, bounds=bounds)


def _no_room(view: ServiceView, candidate: str, counts: Mapping[str, Counts]) -> Iterator[Hold]:
    """Say what the candidate's first cell waits for."""
    record = view.memory.revision(candidate)
    for deployment in record.deployments if record else ():
        if deployment.scale is None or counts[deployment.name].room >= (2 if is_pending(view) else 1):
            continue
        budget = view.budget(deployment.name)
        text = (
            f"{deployment.name} has {view.live(deployment.name)} live replicas of at most {budget.ceiling} "
            f"({budget.target} + surge {budget.surge}): waiting until some have stopped"
        )
        yield Hold(service=view.name, reason=Reason.CAPACITY_BUDGET, message=text)
        return


def depart(view: ServiceView, layout: Layout, weights: Mapping[str, int]) -> tuple[Decision, ...]:
    """Take away cells of a revision that stays, where it is to have none any more: drained first, then retired."""
    going = departures(view, layout, weights)
    cells = (cell for revision in view.revisions for cell in view.cells_of(revision) if cell.name in going)
    idle = (cell for cell in cells if not (cell.lane and cell.lane.weight) and not view.memory.weights.get(cell.name))
    return tuple(leave(view, cell, urgent=False) for cell in idle if is_due(view, cell))
