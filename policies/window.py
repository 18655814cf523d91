"""What candidate and stable are compared on: both revisions' counters over the same time, at the same weights.

Every change of the weights ends one window of the comparison and begins the next. One long window over moving
weights would take a bad hour for a bad revision: that of the two which had most of its requests just then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from policies.analysis import append
from policies.analysis.clients import tells_clients_apart
from policies.baseline import fresh_line
from policies.recall import recalled
from policies.view import CellView, ServiceView
from specs.analysis import Unit
from specs.desired import Analysis
from specs.evidence import Evidence, Window
from specs.memory import Comparison


def next_comparison(view: ServiceView) -> Comparison | None:
    """Return the comparison after this look; None while no candidate goes through steps beside a stable revision.

    Counters that fell were lost by the gateway, which is no fault of a revision: the window begins anew. So it does
    when clients are told apart from now on: the difference to a start without groups has none for as long as it lasts.
    """
    candidate, stable, rollout = view.memory.candidate, view.memory.stable, view.memory.rollout
    if candidate is None or stable is None or rollout is None or rollout.is_fast or not is_compared(view):
        return None
    weights = {cell.name: cell.lane.weight for cell in _compared(view) if cell.lane is not None}
    counters = counters_of(view, _compared(view)) if _both_have_requests(view) else {}
    last = view.memory.comparison
    if last is None or (last.candidate, last.stable) != (candidate, stable):
        return Comparison(candidate=candidate, stable=stable, since=view.now, weights=weights, start=counters)
    if last.weights == weights and _have_grown(counters, last.start) and not _gained_groups(counters, last.start):
        return last
    return replace(last, since=view.now, weights=weights, start=counters, past=_with_ended(view, last))


@recalled
def windows(view: ServiceView) -> tuple[Window, ...]:
    """Return what was seen so far, window by window, the present one last."""
    comparison = view.memory.comparison
    if comparison is None:
        return ()
    present = _window(view, comparison)
    return (*comparison.past, *((present,) if present is not None else ()))


def unit_of(view: ServiceView) -> Unit:
    """Return what is independent of each other: where clients stay on their version, only they are."""
    return Unit.CLIENT if view.spec.rollout.sticky is not None else Unit.REQUEST


def reference_evidence(view: ServiceView) -> Evidence:
    """Return what the stable revision, or its baseline, answered while the candidate was compared with it."""
    return _sum([window.stable for window in windows(view)])


def is_compared(view: ServiceView) -> bool:
    """Return whether the spec wants the requests of candidates to be compared with the stable revision's."""
    return view.spec.analysis is not None or any(isinstance(step, Analysis) for step in view.spec.rollout.steps)


def _with_ended(view: ServiceView, last: Comparison) -> tuple[Window, ...]:
    ended = _window(view, last)
    past = last.past if ended is None else append(last.past, ended)
    # What cannot be counted by client would take the groups of a window it is later put together with.
    return tuple(filter(tells_clients_apart, past)) if unit_of(view) is Unit.CLIENT else past


def _window(view: ServiceView, comparison: Comparison) -> Window | None:
    """Return the window that began at the comparison's start, as it is now; None when its counters were lost."""
    counters = counters_of(view, view.cells)
    seen: dict[str, Evidence] = {}
    for cell, start in comparison.start.items():
        if cell in counters:
            new = _since(counters[cell], start)
            if new is None:
                return None
            seen[cell] = new
    candidates = {cell.name for cell in view.cells if cell.revision == comparison.candidate}
    if not candidates & seen.keys() or not seen.keys() - candidates:
        return None
    return Window(
        candidate=_sum([evidence for cell, evidence in seen.items() if cell in candidates]),
        stable=_sum([evidence for cell, evidence in seen.items() if cell not in candidates]),
    )


@lru_cache(maxsize=4096)
def _since(now: Evidence, start: Evidence) -> Evidence | None:
    """Return what came after `start`, None when counters fell. A look asks several times; so many suit any cluster."""
    try:
        return now - start
    except ValueError:
        return None


def _sum(parts: Sequence[Evidence]) -> Evidence:
    total = parts[0] if parts else Evidence()
    for part in parts[1:]:
        total = total + part
    return total


@recalled
def reference(view: ServiceView) -> str | None:
    """Return what the candidate is compared with: its fresh baseline, or the stable revision as it is."""
    return fresh_line(view) or view.memory.stable


@recalled
def _compared(view: ServiceView) -> tuple[CellView, ...]:
    """Return the cells that are compared: a candidate in some zones with what the stable revision has there.

    Zones differ (in hardware, in their distance to what a replica calls); that is no difference of revisions.
    """
    candidate, stable = view.cells_of(view.memory.candidate), view.cells_of(reference(view))
    zones = {cell.memory.key.zone for cell in candidate if cell.lane is not None and cell.lane.weight}
    near = [cell for cell in stable if cell.memory.key.zone in zones and cell.lane is not None and cell.lane.weight]
    return (*(near or stable), *candidate)


def _both_have_requests(view: ServiceView) -> bool:
    return all(view.routed(line) > 0 for line in (reference(view), view.memory.candidate))


def counters_of(view: ServiceView, cells: Sequence[CellView]) -> Mapping[str, Evidence]:
    """Return the gateway's counters of some cells; of one without a lane there are none."""
    gateway = view.observed.gateway
    if gateway is None:
        return {}
    counted = {cell.name: gateway.counted(cell.name) for cell in cells}
    return {name: entry.evidence for name, entry in counted.items() if entry is not None}


def _have_grown(counters: Mapping[str, Evidence], start: Mapping[str, Evidence]) -> bool:
    """Return whether these can be later readings of the same cells' counters."""
    return counters.keys() == start.keys() and all(
        _since(counters[cell], then) is not None for cell, then in start.items()
    )


def _gained_groups(counters: Mapping[str, Evidence], start: Mapping[str, Evidence]) -> bool:
    """Return whether clients are told apart by now and were not when the window began."""
    return any(counters[cell].clients and not then.clients and then.requests for cell, then in start.items())
