"""A revision's share of the requests, divided between its cells by what their ready replicas carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction

from policies.layout import Layout
from policies.view import CellView, ServiceView
from policies.zones import apportion
from specs.routes import FULL, MOST_SHARES, ROUNDING


def cell_weights(view: ServiceView, weights: Mapping[str, int], layout: Layout) -> Mapping[str, int]:
    """Return basis points per cell, revision by revision in threshold order.

    A cell that does not answer gets none while another of its revision does, nor does one that leaves as soon as the
    others do without it.
    """
    departing = departures(view, layout, weights)
    divided: dict[str, Mapping[str, int]] = {}
    for revision in view.revisions:
        cells = view.cells_of(revision)
        divided[revision] = _divided(view, cells, weights.get(revision, 0), departing)
    for revision in reversed(view.revisions):
        if sum(1 for parts in divided.values() for part in parts.values() if part) > MOST_SHARES:
            divided[revision] = _in_one(divided[revision])
    return {cell: part for parts in divided.values() for cell, part in parts.items()}


def _divided(
    view: ServiceView, cells: tuple[CellView, ...], weight: int, departing: frozenset[str]
) -> Mapping[str, int]:
    """Divide one revision's share."""
    answering = [cell for cell in cells if cell.answers]
    able = [cell for cell in answering if cell.name not in departing] or answering or list(cells)
    zero = dict.fromkeys((cell.name for cell in cells), 0)
    if not able:
        return zero
    ready = {cell.name: view.capacity(cell) for cell in able}
    if not sum(ready.values()):
        ready = {cell.name: Fraction(_answering(cell)) for cell in able}
    return zero | apportion(weight, ready)


def _answering(cell: CellView) -> int:
    return min((len(cell.serving(name)) for name in cell.deployments), default=0)


def _in_one(parts: Mapping[str, int]) -> Mapping[str, int]:
    """Give all of a revision's share to its largest cell: the gateway holds no more of them."""
    largest = max(parts, key=lambda name: parts[name], default="")
    return {name: sum(parts.values()) if name == largest else 0 for name in parts}


def departures(view: ServiceView, layout: Layout, weights: Mapping[str, int]) -> frozenset[str]:
    """Return the cells that leave a revision that stays, and that the others can do without now.

    Those that began to drain go on, unless they are wanted again. Serving replicas stay at N - maxUnavailable over all
    revisions, and the other cells of the revision carry what it has. `weights` are the basis points per revision about
    to be routed: what loses its requests in the same look cannot stand in for a cell that leaves.

    Cells go as a whole. Where deployments do not divide evenly over them, each cell may be needed for one of its
    deployments while another one holds the room that the candidate waits for, and waits for the candidate. Then one
    cell goes, and for as long as its replicas take to be replaced the others carry more than their share.
    """
    going: set[str] = set()
    for revision in view.revisions:
        for cell in sorted(view.cells_of(revision), key=lambda cell: (not cell.is_draining, cell.name)):
            if layout.is_leaving(cell) and _is_dispensable(view, cell, going, weights):
                going.add(cell.name)
    return frozenset(going or _way_out(view, layout, weights))


def _is_dispensable(view: ServiceView, cell: CellView, going: set[str], weights: Mapping[str, int]) -> bool:
    if cell.is_draining or not cell.answers:
        return True
    gone, line = {*going, cell.name}, cell.line
    if view.carried(line, but=gone) * FULL < max(view.weights.get(line, 0), weights.get(line, 0)) - ROUNDING:
        return False
    return _is_enough_without(view, cell, gone, weights)


def _is_enough_without(view: ServiceView, cell: CellView, gone: Collection[str], weights: Mapping[str, int]) -> bool:
    staying = [revision for revision in view.revisions if weights.get(revision, 0) > 0]
    return all(_serving_without(view, name, gone, staying) >= _owed(view, name) for name in cell.deployments)


def _way_out(view: ServiceView, layout: Layout, weights: Mapping[str, int]) -> set[str]:
    """Return the cell that goes so that a rollout which would never move again does; none while anything moves."""
    if not _is_locked(view, layout) or any(view.weights.get(line, 0) != share for line, share in weights.items()):
        return set()
    cells = (cell for line in view.revisions for cell in view.cells_of(line))
    leaving = (cell.name for cell in cells if layout.is_leaving(cell) and _others_do(view, cell, weights))
    return set(sorted(leaving)[:1])


def _others_do(view: ServiceView, cell: CellView, weights: Mapping[str, int]) -> bool:
    """Return whether another cell of the same line answers, and no service is short of replicas without this one."""
    others = (other for other in view.cells_of(cell.line) if other.name != cell.name)
    return any(other.answers for other in others) and _is_enough_without(view, cell, {cell.name}, weights)


def _is_locked(view: ServiceView, layout: Layout) -> bool:
    """Return whether the candidate lacks replicas for which there is no room, and nothing is on its way."""
    lacking = _lacking(view, layout, view.memory.candidate)
    return any(view.room(name) < 1 for name in lacking) and all(map(_is_still, view.cells))


def is_stuck(view: ServiceView, layout: Layout, line: str | None) -> bool:
    """Return whether a revision lacks replicas, there is no room for another cell, and nothing is on its way."""
    is_full = any(view.room(name) < 1 for name in view.deployments_of(line))
    return is_full and bool(_lacking(view, layout, line)) and all(map(_is_still, view.cells))


def _lacking(view: ServiceView, layout: Layout, line: str | None) -> list[str]:
    """Return the deployments of which a revision is to have more."""
    wanted: Counter[str] = Counter()
    for counts in layout.of(line).values():
        wanted.update(counts)
    return [name for name, count in wanted.items() if count > view.followed(line, name)]


def _is_still(cell: CellView) -> bool:
    if cell.memory.is_retired or cell.seen is None or not cell.seen.deployments:
        return False
    names = [seen.name for seen in cell.seen.deployments]
    return all(cell.live(name) == cell.running(name) == cell.followed(name) == cell.commanded(name) for name in names)


def _owed(view: ServiceView, deployment: str) -> int:
    budget = view.budget(deployment)
    return budget.target - budget.unavailable


def _serving_without(view: ServiceView, deployment: str, gone: Collection[str], staying: Iterable[str]) -> int:
    routed = (cell for revision in staying for cell in view.cells_of(revision))
    cells = (cell for cell in routed if cell.name not in gone and not cell.is_draining)
    return sum(min(len(cell.serving(deployment)), cell.followed(deployment)) for cell in cells)
