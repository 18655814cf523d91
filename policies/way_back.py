"""The way back to a revision that was good before: who may take it without steps, and the watch after 100%."""

from __future__ import annotations

from datetime import datetime

from policies.bake import judgement
from policies.health import find_failure
from policies.recall import recalled
from policies.view import ServiceView
from specs.analysis import Outcome
from specs.decisions import Decision, EndBake, FallBack, LatchFailure
from specs.memory import Failure, OutgoingCause
from specs.reasons import Reason


def skips_steps(view: ServiceView, revision: str) -> bool:
    """Return whether a revision goes straight to 100%: it was good, and not long ago.

    One of the last `rollbackWindow` good ones before the stable revision, or one that was replaced a moment
    ago and still runs. What was taken back since is not good any more.
    """
    earlier = [good for good in view.memory.good if good != view.memory.stable]
    window = view.spec.rollout.rollback_window
    return revision in (earlier[-window:] if window else []) or _is_warm(view, revision)


def _is_warm(view: ServiceView, revision: str) -> bool:
    """Return whether a revision served everything until it was replaced, was not taken back, and still runs."""
    replaced = {out.revision for out in view.memory.outgoing if out.cause is OutgoingCause.REPLACED}
    cells = view.cells_of(revision)
    taken_back = revision not in view.memory.good
    return (
        revision in replaced and not taken_back and bool(cells) and all(cell.memory.failure is None for cell in cells)
    )


def baking_until(view: ServiceView) -> datetime | None:
    """Return when the watch window after 100% ends, or None when none is open."""
    baking, memory = view.memory.baking, view.memory
    if baking is None or memory.candidate is not None or baking.revision != memory.stable:
        return None
    return baking.since + view.spec.rollout.bake


@recalled
def watch(view: ServiceView) -> tuple[Decision, ...]:
    """Return what the watch window after 100% calls for: the fall back at a regression, or its end."""
    baking, until = view.memory.baking, baking_until(view)
    if baking is None or until is None or view.spec.suspend:
        return ()
    failure = regression(view)
    if failure is not None and view.spec.rollout.auto_rollback:
        way = fall_back(view, failure.reason, f"after 100%: {failure.message}")
        if way:
            return (*_latched(view, baking.revision, failure), *way)
    return (EndBake(service=view.name),) if view.now >= until else ()


def _latched(view: ServiceView, revision: str, failure: Failure) -> tuple[Decision, ...]:
    """Remember what each cell failed of before anything else is done: Serve forgets it at the next change.

    Requests speak of all cells of a revision together.
    """
    of_all = failure if failure.reason is Reason.ANALYSIS_FAILED else None
    cells = [cell for cell in view.cells_of(revision) if cell.memory.failure is None]
    found = ((cell, find_failure(view, cell) or of_all) for cell in cells)
    return tuple(
        LatchFailure(service=view.name, cell=cell.memory.key, failure=failure) for cell, failure in found if failure
    )


def regression(view: ServiceView) -> Failure | None:
    """Return what got worse since the stable revision took over, or None: its health, or what its requests say."""
    found = (find_failure(view, cell) for cell in view.cells_of(view.memory.stable))
    return next((failure for failure in found if failure is not None), None) or _worse(view)


def _worse(view: ServiceView) -> Failure | None:
    found = judgement(view) if baking_until(view) is not None else None
    if found is None or found.outcome is not Outcome.FAILING:
        return None
    return Failure(reason=Reason.ANALYSIS_FAILED, message=found.message, at=view.now)


def fall_back(view: ServiceView, reason: Reason, message: str, by: str = "heliostat") -> tuple[Decision, ...]:
    """Return the way back from a stable revision under watch to the one before it, kept warm for that."""
    baking = view.memory.baking
    to = view.memory.revision(baking.back_to) if baking is not None else None
    if baking is None or to is None or view.memory.quarantined(to.id) is not None:
        return ()
    return (
        FallBack(
            service=view.name,
            revision=baking.revision,
            to=to,
            is_fast=True,
            reason=reason,
            message=message,
            by=by,
        ),
    )
