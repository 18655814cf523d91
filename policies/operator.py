"""What an operator asks for, turned into decisions, or refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from policies.gates import closed_gates, is_open
from policies.metrics import silent_metric
from policies.rollout import goal_weight
from policies.view import ServiceView
from policies.way_back import baking_until, fall_back, skips_steps
from specs.commands import Command, Verb
from specs.decisions import (
    Decision,
    EndBake,
    EnterStep,
    FallBack,
    Ordered,
    OverruleGates,
    PauseRollout,
    PinRevision,
    Release,
    ResumeRollout,
    RollBack,
)
from specs.desired import Revision, SetHeaderRoute, SetWeight
from specs.gates import GateAt, GateKind
from specs.reasons import Reason


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a command makes no sense now, and what would."""

    message: str


Answer = tuple[Decision, ...] | Refusal


def obey(view: ServiceView, command: Command) -> Answer:
    """Return the decisions that carry a command out, or why it is refused.

    The first of the decisions is the record of the command itself: whatever is done, who asked for it is told.
    """
    answer = _standing_still(view, command) or _obeyed(view, command)
    if isinstance(answer, Refusal):
        return answer
    return (Ordered(service=view.name, command=command), *answer)


def _standing_still(view: ServiceView, command: Command) -> Refusal | None:
    """Refuse what could not have any effect: Git says that nothing of the service is to move."""
    if view.memory.is_removed:
        return Refusal(message="it left the repository and is being removed; put it back there first")
    if view.spec.suspend and command.verb not in (Verb.PAUSE, Verb.RESUME):
        return Refusal(message="suspend is true in Git, so nothing of it moves; take that out of the spec first")
    return None


def _obeyed(view: ServiceView, command: Command) -> Answer:
    match command.verb:
        case Verb.PROMOTE:
            return _promote(view, command)
        case Verb.PAUSE:
            return _pause(view, command)
        case Verb.RESUME:
            return _resume(view, command)
        case Verb.ABORT:
            return _abort(view, command)
        case Verb.RETRY:
            return _retry(view, command)
        case Verb.ROLLBACK:
            return _rollback(view, command)
        case _:
            assert_never(command.verb)


def _promote(view: ServiceView, command: Command) -> Answer:
    if baking_until(view) is not None:
        return (EndBake(service=view.name, by=command.by),)
    rollout, count = view.memory.rollout, len(view.spec.rollout.steps)
    if view.memory.candidate is None or rollout is None:
        return Refusal(message="no rollout is in progress; nothing is changed")
    if view.memory.stable is None or rollout.is_fast or (rollout.step >= count and is_open(view)):
        return Refusal(message="the candidate is on its way to 100% already")
    if (stopped := _stopped(view)) is not None:
        return stopped
    return _all_the_way(view, command) if command.full else _one_step(view, rollout.step, command.by)


def _stopped(view: ServiceView) -> Refusal | None:
    """Refuse to go on with what a person, or a failure, holds where it is."""
    pause, failure = view.memory.pause, _failure(view)
    if pause is not None:
        return Refusal(message=f"it is paused by {pause.by}; resume it first, then promote")
    if failure is not None:
        return Refusal(message=f"the candidate failed ({failure}) and is not given more requests; abort, or push a fix")
    return None


def _one_step(view: ServiceView, index: int, by: str) -> Answer:
    """Go past the gates of a step, or end one that waits; one that moves ends when it has arrived."""
    closed = tuple(gate.name for gate in closed_gates(view))
    if closed:
        return (OverruleGates(service=view.name, step=index, gates=closed, by=by),)
    if silent_metric(view):
        return (EnterStep(service=view.name, step=index + 1, by=by),)
    match view.spec.rollout.steps[index]:
        case SetWeight():
            goal = goal_weight(view) // 100
            text = f"traffic is still moving to {goal}%; promote ends a pause or an analysis, --full skips all steps"
            return Refusal(message=text)
        case SetHeaderRoute():
            return Refusal(message="the candidate is not ready for its header route yet; promote ends a pause")
        case _:
            return (EnterStep(service=view.name, step=index + 1, by=by),)


def _all_the_way(view: ServiceView, command: Command) -> tuple[Decision, ...]:
    """Skip all steps that are left, and the gates on the way."""
    steps, gates = view.spec.rollout.steps, view.spec.rollout.gates
    last = tuple(gate.name for gate in gates if gate.at is GateAt.BEFORE_PROMOTION and gate.kind is GateKind.CONFIRM)
    overruled = (OverruleGates(service=view.name, step=len(steps), gates=last, by=command.by),) if last else ()
    return (EnterStep(service=view.name, step=len(steps), by=command.by), *overruled)


def _failure(view: ServiceView) -> Reason | None:
    failures = (cell.memory.failure for cell in view.cells_of(view.memory.candidate))
    return next((failure.reason for failure in failures if failure is not None), None)


def _pause(view: ServiceView, command: Command) -> Answer:
    if view.memory.candidate is None:
        return Refusal(message="no rollout is in progress; to freeze a service, set suspend: true in Git")
    if view.memory.pause is not None:
        return Refusal(message=f"it was paused by {view.memory.pause.by} already")
    return (PauseRollout(service=view.name, by=command.by, why=command.why),)


def _resume(view: ServiceView, command: Command) -> Answer:
    if view.memory.pause is None:
        return Refusal(message="it is not paused by an operator; a pause step ends with promote")
    return (ResumeRollout(service=view.name, by=command.by),)


def _abort(view: ServiceView, command: Command) -> Answer:
    message = _signed("aborted", command)
    if view.memory.candidate is not None:
        return _given_up(view, Reason.ROLLOUT_ABORTED, message, command.by)
    if baking_until(view) is not None:
        return fall_back(view, Reason.ROLLOUT_ABORTED, message, command.by) or _no_way_back(view)
    return Refusal(
        message="no rollout is in progress, so nothing is changed; to leave the stable revision, use rollback"
    )


def _signed(text: str, command: Command) -> str:
    return f"{text} by {command.by}{': ' + command.why if command.why else ''}"


def _given_up(view: ServiceView, reason: Reason, message: str, by: str) -> tuple[Decision, ...]:
    """Return to the stable revision. Ending an operator's way back ends its pin, and blames nobody.

    The revision that was to be left is then stable as before: what keeps it from being wanted goes too.
    """
    memory, candidate = view.memory, view.memory.candidate
    if candidate is None:
        return ()
    pinned = memory.pin is not None and memory.pin.revision == candidate
    undo = RollBack(service=view.name, revision=candidate, reason=reason, message=message, by=by, quarantine=not pinned)
    if not pinned:
        return (undo,)
    unpin = PinRevision(service=view.name, pin=None, by=by)
    wanted = view.spec.revision.id
    if wanted == memory.stable and memory.quarantined(wanted) is not None:
        return (undo, unpin, Release(service=view.name, revision=wanted, by=by))
    return (undo, unpin)


def _retry(view: ServiceView, command: Command) -> Answer:
    wanted = view.spec.revision.id
    if view.memory.quarantined(wanted) is None:
        return Refusal(message=f"the wanted revision {wanted} is not quarantined; there is nothing to try again")
    release = Release(service=view.name, revision=wanted, by=command.by)
    if view.memory.pin is not None:
        return (release, PinRevision(service=view.name, pin=None, by=command.by))
    return (release,)


def _rollback(view: ServiceView, command: Command) -> Answer:
    """Go back: during a rollout to the stable revision unless another is named, else to an earlier one."""
    memory, stable = view.memory, view.memory.stable
    if stable is None:
        return Refusal(message="no revision was good so far; abort ends a rollout in progress")
    if memory.candidate is not None and command.to in (None, stable):
        message = _signed(f"rolled back to {stable}", command)
        return _given_up(view, Reason.ROLLED_BACK_BY_OPERATOR, message, command.by)
    if command.to == stable:
        return Refusal(message=f"{stable} is the stable revision already; nothing is changed")
    if command.to is not None and command.to == memory.candidate:
        return Refusal(message=f"{command.to} is the candidate already; promote --full skips its steps")
    target = _target(view, command.to)
    return target if isinstance(target, Refusal) else _going_back(view, target, command)


def _target(view: ServiceView, to: str | None) -> Revision | Refusal:
    """Return the record of the good revision to go back to."""
    memory = view.memory
    good = [revision for revision in memory.good if revision not in (memory.stable, memory.candidate)]
    known = [record for revision in good if (record := memory.revision(revision)) is not None]
    if not known:
        return _no_way_back(view)
    found = [record for record in known if to in (None, record.id)]
    names = ", ".join(record.id for record in known)
    return found[-1] if found else Refusal(message=f"{to} is not a good revision that is remembered (known: {names})")


def _no_way_back(view: ServiceView) -> Refusal:
    return Refusal(message=f"no earlier good revision is remembered; {view.memory.stable} goes on")


def _going_back(view: ServiceView, to: Revision, command: Command) -> tuple[Decision, ...]:
    memory, against = view.memory, view.spec.revision.id
    reason, message = Reason.ROLLED_BACK_BY_OPERATOR, _signed(f"rolled back to {to.id}", command)
    if against == to.id:
        return (PinRevision(service=view.name, pin=None, by=command.by),)
    way = FallBack(
        service=view.name,
        revision=against,
        to=to,
        is_fast=skips_steps(view, to.id),
        reason=reason,
        message=message,
        by=command.by,
    )
    if memory.candidate is None:
        return (way,)
    undo = RollBack(service=view.name, revision=memory.candidate, reason=reason, message=message, by=command.by)
    return (undo, way)
