"""Cells that come and go: of the candidate, and of a revision that stays where its replicas move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from policies.baseline import fresh_line, is_pending
from policies.bounds import first_bounds
from policies.capacity import Counts
from policies.layout import Layout
from policies.retirement import is_due, leave
from policies.shares import departures
from policies.view import ServiceView
from specs.cells import CellKey
from specs.decisions import Decision, Hold, StartRevision
from specs.desired import FixedScale
from specs.memory import BASELINE, Bounds
from specs.placement import Site
from specs.reasons import Reason


@dataclass(frozen=True, kw_only=True)
class _Yard:
    """Where cells are made in one look: `room` is what is left of the budget, `made` what was decided so far."""

    view: ServiceView
    layout: Layout
    room: dict[str, int]
    made: list[StartRevision]

    def key(self, revision: str, site: Site) -> CellKey:
        """Return the name of a revision's next cell; no other one has had it, nor gets it in this look."""
        used = [cell.memory.key.generation + 1 for cell in self.view.cells if cell.revision == revision]
        used += [one.cell.generation + 1 for one in self.made if (one.cell.revision, one.cell.site) == (revision, site)]
        generation = max([self.view.memory.generations.get(revision, 0), *used])
        return CellKey(
            service=self.view.name, revision=revision, zone=site.zone, market=site.market, generation=generation
        )


def create(view: ServiceView, counts: Mapping[str, Counts], layout: Layout) -> tuple[Decision, ...]:
    """Create the cells that are missing as soon as each of their listed deployments has room for one replica.

    What serves comes before what is new, unless it lacks no replica and only moves. A baseline follows its candidate
    to every place.
    """
    candidate, stable = view.memory.candidate, view.memory.stable
    yard = _Yard(view=view, layout=layout, room={name: found.room for name, found in counts.items()}, made=[])
    new = (candidate, fresh_line(view))
    for line in (stable, *new) if _is_short(view, counts) else (*new, stable):
        make = _pair if line == candidate and is_pending(view) else _alone
        for site in layout.missing(view, line) if line else ():
            if not make(yard, line or "", site):
                break
    is_waiting = candidate is not None and not view.cells_of(candidate)
    if is_waiting and not any(one.cell.revision == candidate for one in yard.made):
        return (*yard.made, *_no_room(view, candidate or "", counts))
    return tuple(yard.made)


def _alone(yard: _Yard, line: str, site: Site) -> bool:
    """Make a cell with as much of its layout as there is room for; return whether there is any."""
    made = _cell(yard, line, site, yard.room)
    if made is not None:
        yard.made.append(made)
    return made is not None


def _pair(yard: _Yard, candidate: str, site: Site) -> bool:
    """Make a candidate's cell and its baseline's in the same place: both at once, for they are to be of one age."""
    view, room, stable = yard.view, yard.room, yard.view.memory.stable
    half = {name: free // 2 for name, free in room.items()}
    made = _cell(yard, candidate, site, half)
    record = view.memory.revision(stable or "")
    if made is None or record is None or stable is None:
        return False
    sizes = {name: bounds.min_replicas for name, bounds in made.bounds.items()} | dict(made.counts)
    listed = [one.name for one in record.deployments if one.scale is not None]
    first = {name: sizes.get(name, 1) for name in listed}
    if any(room[name] < count + sizes.get(name, 0) for name, count in first.items()):
        return False
    for name in room:
        room[name] -= sizes.get(name, 0) + first.get(name, 0)
    yard.made.extend((made, _baseline(yard, yard.key(stable, site), first)))
    return True


def _baseline(yard: _Yard, key: CellKey, first: Mapping[str, int], line: str = "") -> StartRevision:
    """Return a baseline's cell, the first of its line unless that is given. It does not scale by itself."""
    fixed = {name: count for name, count in first.items() if isinstance(yard.view.scale(name), FixedScale)}
    bounds = {n: Bounds(min_replicas=c, max_replicas=c) for n, c in first.items() if n not in fixed}
    joins = int(line.partition(BASELINE)[2]) if line else None
    return StartRevision(service=yard.view.name, cell=key, counts=fixed, bounds=bounds, is_baseline=True, joins=joins)


def _is_short(view: ServiceView, counts: Mapping[str, Counts]) -> bool:
    """Return whether the stable revision lacks replicas that it has no cell for."""
    stable = view.memory.stable
    if stable is None:
        return False
    cells = view.cells_of(stable)
    return any(
        sum(found.cells.get(cell.name, 0) for cell in cells) < found.goal.get(stable, 0) for found in counts.values()
    )


def _cell(yard: _Yard, line: str, site: Site, room: dict[str, int]) -> StartRevision | None:
    """Return a new cell with as much of its layout as there is room for, which it takes; None when there is none."""
    view, (revision, mark, _) = yard.view, line.partition(BASELINE)
    record = view.memory.revision(revision)
    if record is None:
        return None
    listed = [one.name for one in record.deployments if one.scale is not None]
    wanted = yard.layout.of(line)[site]
    first = {name: min(room[name], wanted[name]) for name in listed}
    if any(count < 1 for count in first.values()):
        return None
    for name, count in first.items():
        room[name] -= count
    key = yard.key(revision, site)
    if mark:
        return _baseline(yard, key, first, line)
    fixed = {name: count for name, count in first.items() if isinstance(view.scale(name), FixedScale)}
    scaled = first.keys() - fixed.keys()
    bounds = {name: first_bounds(view, key, name, first[name], yard.layout) for name in first if name in scaled}
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


def depart(
    view: ServiceView, layout: Layout, weights: Mapping[str, int], routed: Mapping[str, int]
) -> tuple[Decision, ...]:
    """Take away cells of a revision that stays, where it is to have none any more: drained first, then retired.

    `routed` are the basis points per cell about to be routed: one that drains is the last resort when all others of
    its revision are lost.
    """
    going = {name for name in departures(view, layout, weights) if not routed.get(name)}
    cells = (cell for revision in view.revisions for cell in view.cells_of(revision) if cell.name in going)
    idle = (cell for cell in cells if not (cell.lane and cell.lane.weight) and not view.memory.weights.get(cell.name))
    return tuple(leave(view, cell, urgent=False) for cell in idle if is_due(view, cell))
