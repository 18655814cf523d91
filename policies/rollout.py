"""A new revision through its steps: where the traffic is to go next, and when the rollout moves on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from policies.baseline import fresh_line, fresh_share, is_awaited
from policies.bounds import CellGoal, next_bounds
from policies.capacity import Counts, goal_counts, next_counts
from policies.cells import create, depart
from policies.counsel import aim, is_delegated
from policies.drift import is_left
from policies.gates import is_open
from policies.layout import Layout, make_layout
from policies.metrics import silent_metric
from policies.recall import recalled
from policies.registry import ROLLOUT
from policies.shares import cell_weights
from policies.steps import weight_at
from policies.traffic import heir, next_weights, ready_share
from policies.verdicts import end_of_analysis
from policies.view import CellView, ServiceView
from specs.decisions import Decision, EnterStep, Promote, ReachStep, SetCapacity, SetWeights
from specs.desired import Analysis, Delegated, Pause, SetHeaderRoute, SetWeight, Step
from specs.routes import FULL


@recalled
def goal_weight(view: ServiceView) -> int:
    """Return the candidate's share at the current step, in basis points."""
    rollout = view.memory.rollout
    if rollout is None or rollout.is_fast or view.memory.stable is None:
        return FULL
    carried = view.weights.get(view.memory.candidate or "", 0)
    if is_awaited(view):
        return carried
    if is_delegated(view):
        aimed = aim(view)
        return carried if aimed is None or aimed.weight == FULL else aimed.weight
    goal = ROLLOUT["steps"](view)
    if is_open(view):
        return goal
    return min(goal, max(carried, weight_at(view.spec.rollout.steps, rollout.step - 1)))


@recalled
def goal_weights(view: ServiceView) -> Mapping[str, int]:
    """Return the share that each revision is on its way to."""
    stable, candidate = view.memory.stable, view.memory.candidate
    goal = dict.fromkeys(view.revisions, 0)
    in_between = heir(view)
    if in_between is not None:
        return goal | {in_between: FULL}
    weight = goal_weight(view) if candidate is not None else 0
    line = fresh_line(view)
    beside = fresh_share(weight) if line is not None else 0
    if line is not None:
        goal[line] = beside
    if candidate is not None:
        goal[candidate] = weight
    if stable is not None:
        goal[stable] = FULL - weight - beside
    return goal


def advance(view: ServiceView) -> Decision | None:
    """Return the step change that is due, or None while the current step is not done."""
    candidate, rollout = view.memory.candidate, view.memory.rollout
    if candidate is None or rollout is None or _is_held(view):
        return None
    goal = goal_weight(view)
    carried = view.weights.get(candidate, 0)
    if goal == FULL and _is_last(view):
        done = carried == FULL and ready_share(view, candidate) == FULL
        return Promote(service=view.name, revision=candidate) if done else None
    step = view.spec.rollout.steps[rollout.step]
    if isinstance(step, Pause | Analysis) and rollout.reached_at is None:
        return ReachStep(service=view.name) if view.is_serving(candidate) else None
    over = _end_of(view, step, goal)
    return EnterStep(service=view.name, step=rollout.step + 1, message=over) if over is not None else None


def _end_of(view: ServiceView, step: Step, goal: int) -> str | None:
    """Return what a step came to when it is over ("" when there is nothing to say), else None."""
    candidate, rollout = view.memory.candidate, view.memory.rollout
    over = False
    match step:
        case SetWeight() | SetHeaderRoute():
            over = view.weights.get(candidate or "", 0) >= goal and view.is_serving(candidate)
        case Pause(duration=duration) if rollout is not None and rollout.reached_at is not None:
            over = duration is not None and view.now - rollout.reached_at >= duration
        case Delegated():
            aimed = aim(view)
            over = aimed is not None and aimed.weight == FULL and view.is_serving(candidate)
        case Analysis():
            return end_of_analysis(view) or None
    return "" if over else None


def _is_held(view: ServiceView) -> bool:
    """Return whether others keep the rollout at its step: a gate, a baseline, a silent metrics server."""
    return not is_open(view) or is_awaited(view) or bool(silent_metric(view))


def _is_last(view: ServiceView) -> bool:
    rollout = view.memory.rollout
    is_direct = rollout is None or rollout.is_fast or view.memory.stable is None
    return is_direct or (rollout is not None and rollout.step >= len(view.spec.rollout.steps))


@recalled
def move(view: ServiceView) -> tuple[Decision, ...]:
    """Return the moves of weights and replicas that the current goal asks for now.

    A candidate may wait for room that the stable revision takes on its way to other places: with replicas in both.
    That way is gone to its end then; on the way to the candidate's share as well neither of them would arrive.
    """
    alone = _without_candidate(view)
    if _waits_for_room(view) and any(layout_now(alone).is_leaving(cell) for cell in view.cells_of(view.memory.stable)):
        return _towards(alone, goal_weights(alone))
    return _towards(view, goal_weights(view))


def _waits_for_room(view: ServiceView) -> bool:
    """Return whether the candidate has no cell yet, and not all of its first replicas have room."""
    record = view.memory.revision(view.memory.candidate or "")
    if record is None or view.memory.stable is None or view.cells_of(view.memory.candidate):
        return False
    return any(view.room(one.name) < 1 for one in record.deployments if one.scale is not None)


def _without_candidate(view: ServiceView) -> ServiceView:
    """Return the view as if there were no rollout."""
    return replace(view, memory=replace(view.memory, candidate=None, rollout=None))


def keep(view: ServiceView) -> tuple[Decision, ...]:
    """Return the moves that keep a rollout where it is: the candidate's goal is the share that it has.

    One that has no cell yet gets none: the others carry on as if there were no rollout. One that stands alone (a
    first deployment, or the old revision made room for it already) goes on: half-way it would serve nobody.
    """
    memory = view.memory
    if not view.cells_of(memory.candidate):
        return move(_without_candidate(view))
    if memory.stable is None or not view.is_serving(memory.stable):
        return move(view)
    routed = sum(view.weights.values()) or FULL
    kept = [line for line in (memory.candidate, fresh_line(view)) if line is not None]
    shares = {line: view.weights.get(line, 0) * FULL // routed for line in kept}
    goal = dict.fromkeys(view.revisions, 0) | {memory.stable: FULL - sum(shares.values())} | shares
    return _towards(view, goal)


def give_back(view: ServiceView) -> tuple[Decision, ...]:
    """Return the moves that bring all requests back to the stable revision, where its replicas carry them."""
    return _towards(view, dict.fromkeys(view.revisions, 0) | {view.memory.stable or "": FULL})


def _towards(view: ServiceView, goal: Mapping[str, int]) -> tuple[Decision, ...]:
    weights = next_weights(view, goal)
    layout = make_layout(view, {name: goal_counts(view, name, goal) for name in view.deployments})
    counts = {name: next_counts(view, name, goal, weights, layout) for name in view.deployments}
    routed = cell_weights(view, weights, layout)
    return (
        *_route(view, routed),
        *create(view, counts, layout),
        *_resize(view, counts, goal, layout),
        *depart(view, layout, weights, routed),
    )


@recalled
def layout_now(view: ServiceView) -> Layout:
    """Return which cells the service is on its way to."""
    goal = goal_weights(view)
    return make_layout(view, {name: goal_counts(view, name, goal) for name in view.deployments})


def route_as_is(view: ServiceView) -> tuple[Decision, ...]:
    """Return only what keeps traffic right while everything is frozen: broken cells lose theirs."""
    return _route(view, cell_weights(view, next_weights(view, view.weights), Layout(sites={})))


def _route(view: ServiceView, wanted: Mapping[str, int]) -> tuple[Decision, ...]:
    """Set the weights per cell when they differ from what is routed, or when a cell has no lane yet."""
    cells = [cell for revision in view.revisions for cell in view.cells_of(revision)]
    routed = {cell.name: cell.lane.weight if cell.lane else None for cell in cells}
    if wanted == routed and wanted == dict(view.memory.weights):
        return ()
    weights: Counter[str] = Counter()
    for cell in cells:
        weights[cell.line] += wanted[cell.name]
    shares = ", ".join(f"{revision} {weight / 100:g}%" for revision, weight in weights.items() if weight)
    return (SetWeights(service=view.name, route=view.spec.route, weights=wanted, message=shares or "none yet"),)


def _resize(
    view: ServiceView, counts: Mapping[str, Counts], goal: Mapping[str, int], layout: Layout
) -> tuple[Decision, ...]:
    """Command each deployment of each cell that Serve shows and that is to have another count.

    Said again for as long as Serve shows another one: only what is decided now is done now.
    """
    decisions: list[Decision] = []
    for revision in view.revisions:
        for cell in view.cells_of(revision):
            for name in sorted(cell.deployments & counts.keys()):
                if cell.name in counts[name].cells:
                    decisions += _command(
                        view, cell, name, CellGoal(counts=counts[name], share=goal[revision], layout=layout)
                    )
    return tuple(decisions)


def _command(view: ServiceView, cell: CellView, name: str, to: CellGoal) -> tuple[Decision, ...]:
    seen, key, count = cell.deployment(name), cell.memory.key, to.counts.cells[cell.name]
    if seen is None:
        return ()
    if name in cell.memory.bounds:
        bounds = next_bounds(view, cell, name, to)
        if bounds is None or bounds == cell.memory.bounds[name]:
            return ()
        return (SetCapacity(service=view.name, cell=key, deployment=name, bounds=bounds),)
    is_movable = cell.memory.is_externally_scaled or name in cell.memory.counts
    if not is_movable or count == cell.memory.counts.get(name, seen.target) == seen.target:
        return ()
    if is_left(view, cell.memory, name):
        return ()
    return (SetCapacity(service=view.name, cell=key, deployment=name, count=count),)
