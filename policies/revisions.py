"""Which revision a service is to run, and what happens to the one it was rolling out."""

from __future__ import annotations

from policies.counsel import keeps, wants_back
from policies.health import deadline_failure, find_failure, is_pausing
from policies.recall import recalled
from policies.registry import ROLLBACK
from policies.retirement import is_due
from policies.view import CellView, ServiceView
from policies.way_back import skips_steps
from specs.decisions import Decision, Hold, LatchFailure, RollBack, StartRollout
from specs.memory import Failure, OutgoingCause
from specs.reasons import Reason
from specs.wishes import Stand


@recalled
def choose(view: ServiceView) -> Decision | None:
    """Return the change of course that Git (or an operator's rollback) asks for, or None.

    A newer commit wins at once, at every point of a rollout; going back to the live stable revision
    needs no canary, and neither does one that was good a moment ago (`way_back.skips_steps`).
    """
    memory, wanted = view.memory, view.wanted
    if wanted.id == memory.candidate:
        return None
    if wanted.id == memory.stable or memory.quarantined(wanted.id) is not None:
        return _give_up_candidate(view, f"{wanted.id} is wanted again")
    if _is_failed_and_busy(view):
        return None
    return StartRollout(service=view.name, revision=wanted, is_fast=skips_steps(view, wanted.id))


def give_up_meanwhile(view: ServiceView, held: Hold) -> Decision | None:
    """Return the end of a rollout that nobody wants any more, where the one to take its place is held; else None.

    While that waits for another service, the candidate must not hold the surge, or the room on nodes, which the other
    one waits for. Before there is a stable revision it is all that serves, and stays.
    """
    if held.reason is not Reason.DEPENDENCY_NOT_READY or view.memory.stable is None:
        return None
    return _give_up_candidate(view, f"{view.wanted.id} is wanted, and {held.message}")


def _give_up_candidate(view: ServiceView, message: str) -> Decision | None:
    candidate = view.memory.candidate
    if candidate is None:
        return None
    return RollBack(
        service=view.name,
        revision=candidate,
        reason=Reason.SUPERSEDED,
        message=message,
        cause=OutgoingCause.SUPERSEDED,
        quarantine=False,
    )


def _is_failed_and_busy(view: ServiceView) -> bool:
    """Return whether cells that failed still have requests of the wanted revision, asked for again.

    A new attempt takes their place at once: it waits until that costs no request, also none that goes on for long.
    """
    failed = [cell for cell in view.cells_of(view.wanted.id) if cell.memory.failure is not None]
    return bool(failed) and (view.has_requests(view.wanted.id) or any(_is_answering(view, cell) for cell in failed))


def _is_answering(view: ServiceView, cell: CellView) -> bool:
    return bool(view.in_flight(cell)) and not (cell.memory.drain_since is not None and is_due(view, cell))


@recalled
def judge(view: ServiceView) -> tuple[Decision, ...]:
    """Return what a broken candidate calls for: its failure is latched before anything else is done."""
    for cell in view.cells_of(view.memory.candidate):
        failure = find_failure(view, cell)
        if failure is None and not is_pausing(view):
            failure = deadline_failure(view, cell)
        if failure is not None:
            return (*_latched(view, cell, failure), *rolled_back(view, failure))
    return ()


@recalled
def asked_back(view: ServiceView) -> tuple[Decision, ...]:
    """Return the rollback of a candidate that the rollback policy of another package wants to be taken back."""
    wish, cells = wants_back(view), view.cells_of(view.memory.candidate)
    if wish is None or not cells or any(cell.memory.failure is not None for cell in cells):
        return ()
    text = f"policy {view.spec.rollout.rollback_policy}: {wish.message or 'it gave no reason'}"
    failure = Failure(reason=Reason.POLICY_ROLLBACK, message=text, at=view.now)
    latched = tuple(LatchFailure(service=view.name, cell=cell.memory.key, failure=failure) for cell in cells)
    return (*latched, *rolled_back(view, failure))


def _latched(view: ServiceView, cell: CellView, failure: Failure) -> tuple[Decision, ...]:
    if cell.memory.failure is not None:
        return ()
    return (LatchFailure(service=view.name, cell=cell.memory.key, failure=failure),)


def rolled_back(view: ServiceView, failure: Failure) -> tuple[Decision, ...]:
    """Return the rollback that a failure of the candidate calls for; none when it is to be frozen instead."""
    candidate = view.memory.candidate
    if candidate is None or view.spec.suspend or keeps(view) is not None:
        return ()
    if isinstance(ROLLBACK["failures"](view, failure), Stand):
        return ()
    return (RollBack(service=view.name, revision=candidate, reason=failure.reason, message=failure.message),)
