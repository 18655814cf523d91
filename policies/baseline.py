"""A fresh baseline: replicas of the stable revision that start together with the candidate's.

What is slow because it is new is slow on both sides then, and is not taken for a regression. The baseline is a line
of its own beside the stable revision: it has its own goal, counts in the budget like everybody else, and carries no
more than its ready replicas do. It belongs to the rollout that started it and goes when that is over.
"""

from __future__ import annotations

from policies.health import find_failure
from policies.recall import recalled
from policies.view import ServiceView
from specs.analysis import BASELINE_ROOM, Baseline
from specs.decisions import LatchFailure
from specs.memory import Failure
from specs.reasons import Reason
from specs.routes import FULL


def fresh_share(weight: int) -> int:
    """Return the baseline's share beside a candidate with `weight` basis points: the same, while both are small.

    At least half of what the stable revision has stays with its other replicas: they are whom a rollback returns to.
    """
    return min(weight, (FULL - weight) // 2)


def may_be_asked(view: ServiceView) -> bool:
    """Return whether the service's rollouts are to be compared with a fresh baseline."""
    settings = view.spec.analysis
    return settings is not None and settings.baseline is Baseline.FRESH


@recalled
def is_asked(view: ServiceView) -> bool:
    """Return whether the rollout is one that compares with a fresh baseline, and the budget has room for one."""
    rollout = view.memory.rollout
    if rollout is None or rollout.is_fast or view.memory.stable is None or view.memory.candidate is None:
        return False
    if rollout.step >= len(view.spec.rollout.steps) or not may_be_asked(view):
        return False
    return not has_no_room(view)


def has_no_room(view: ServiceView) -> str:
    """Return why a baseline and a candidate would not fit beside the stable revision at each moment; "" if they do."""
    for name in view.deployments:
        budget = view.budget(name)
        spare = budget.ceiling - budget.needed
        if spare < BASELINE_ROOM:
            return f"{name} has room for {spare} replica(s) beyond those needed, a fresh baseline takes {BASELINE_ROOM}"
    return ""


def is_pending(view: ServiceView) -> bool:
    """Return whether a baseline is to be started together with the candidate, which has no cell yet."""
    return is_asked(view) and not view.cells_of(view.memory.candidate)


@recalled
def fresh_line(view: ServiceView) -> str | None:
    """Return the baseline of the running rollout, None when there is none (any more).

    One that failed is given up, and so is one that is older than the candidate's cells: it was another's.
    """
    candidate = [cell.memory.created_at for cell in view.cells_of(view.memory.candidate)]
    if not candidate or not is_asked(view):
        return None
    for line in view.baselines_of(view.memory.stable):
        cells = [cell.memory for cell in view.cells_of(line)]
        if all(cell.created_at >= min(candidate) and cell.failure is None for cell in cells):
            return line
    return None


@recalled
def left_over(view: ServiceView) -> tuple[str, ...]:
    """Return the baselines that nothing is compared with any more."""
    wanted = fresh_line(view)
    revisions = dict.fromkeys(cell.revision for cell in view.cells)
    return tuple(line for revision in revisions for line in view.baselines_of(revision) if line != wanted)


@recalled
def is_awaited(view: ServiceView) -> bool:
    """Return whether the candidate waits for its baseline: both get their first requests at the same time.

    In one of its zones is enough. Until there are requests both need one replica only, and a cell that is to have none
    meanwhile would be waited for in vain. Once there are, a baseline whose replica is away for a while is not waited
    for again.
    """
    line = fresh_line(view)
    if line is None:
        return False
    cells = view.cells_of(line)
    if view.weights.get(view.memory.candidate or "", 0) == 0:
        return not any(view.capacity(cell) for cell in cells)
    return not any(cell.memory.was_ready for cell in cells)


@recalled
def given_up(view: ServiceView) -> tuple[LatchFailure, ...]:
    """Return what a baseline is given up for: it is broken, or does not start in time. The rollout goes on without."""
    line = fresh_line(view)
    found = ((cell, find_failure(view, cell) or _late(view, line)) for cell in view.cells_of(line))
    return tuple(
        LatchFailure(service=view.name, cell=cell.memory.key, failure=failure) for cell, failure in found if failure
    )


def _late(view: ServiceView, line: str | None) -> Failure | None:
    cells = [cell.memory for cell in view.cells_of(line)]
    limit = view.spec.rollout.progress_deadline
    since = max(max(cell.created_at, cell.building_since) for cell in cells)
    if not is_awaited(view) or view.now - since < limit:
        return None
    text = f"the fresh baseline was not ready within {limit}: compared with the other stable replicas"
    return Failure(reason=Reason.PROGRESS_DEADLINE_EXCEEDED, message=text, at=view.now)
