"""What an operator asks for, turned into decisions, or refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from policies.rollout import goal_weight
from policies.view import ServiceView
from specs.commands import Command, Verb
from specs.decisions import (
    Decision,
    EnterStep,
    PauseRollout,
    PinRevision,
    Quarantine,
    Release,
    ResumeRollout,
    RollBack,
)
from specs.desired import Pause
from specs.memory import Pin
from specs.reasons import Reason


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a command makes no sense now, and what would."""

    message: str


def obey(view: ServiceView, command: Command) -> tuple[Decision, ...] | Refusal:
    """Return the decisions that carry a command out, or why it is refused."""
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


def _promote(view: ServiceView, command: Command) -> tuple[Decision, ...] | Refusal:
    rollout, steps = view.memory.rollout, view.spec.rollout.steps
    if view.memory.candidate is None or rollout is None:
        return Refusal(message="no rollout is in progress")
    if view.memory.stable is None or rollout.is_fast or rollout.step >= len(steps):
        return Refusal(message="the candidate is on its way to 100% already")
    if command.full:
        return (EnterStep(service=view.name, step=len(steps), by=command.by),)
    if not isinstance(steps[rollout.step], Pause):
        weight = goal_weight(view) // 100
        return Refusal(message=f"traffic is still moving to {weight}%; promote ends a pause, --full skips all steps")
    return (EnterStep(service=view.name, step=rollout.step + 1, by=command.by),)


def _pause(view: ServiceView, command: Command) -> tuple[Decision, ...] | Refusal:
    if view.memory.candidate is None:
        return Refusal(message="no rollout is in progress; to freeze a service, set suspend: true in Git")
    if view.memory.pause is not None:
        return Refusal(message=f"it was paused by {view.memory.pause.by} already")
    return (PauseRollout(service=view.name, by=command.by, why=command.why),)


def _resume(view: ServiceView, command: Command) -> tuple[Decision, ...] | Refusal:
    if view.memory.pause is None:
        return Refusal(message="it is not paused by an operator; a pause step ends with promote")
    return (ResumeRollout(service=view.name, by=command.by),)


def _abort(view: ServiceView, command: Command) -> tuple[Decision, ...] | Refusal:
    candidate = view.memory.candidate
    if candidate is None:
        return Refusal(message="no rollout is in progress; to leave the stable revision, use rollback")
    why = f": {command.why}" if command.why else ""
    return (
        RollBack(
            service=view.name,
            revision=candidate,
            reason=Reason.ROLLOUT_ABORTED,
            message=f"aborted by {command.by}{why}",
            by=command.by,
        ),
    )


def _retry(view: ServiceView, command: Command) -> tuple[Decision, ...] | Refusal:
    wanted = view.spec.revision.id
    if view.memory.quarantined(wanted) is None:
        return Refusal(message=f"the wanted revision {wanted} is not quarantined")
    release = Release(service=view.name, revision=wanted, by=command.by)
    if view.memory.pin is not None:
        return (release, PinRevision(service=view.name, pin=None, by=command.by))
    return (release,)


def _rollback(view: ServiceView, command: Command) -> tuple[Decision, ...] | Refusal:
    memory, current = view.memory, view.memory.stable
    kept = {record.id for record in memory.revisions} - {current, memory.candidate}
    good = [revision for revision in memory.good if revision in kept]
    target = command.to or (good[-1] if good else None)
    if target is None:
        return Refusal(message="no earlier good revision is remembered")
    if target == current:
        return Refusal(message=f"{target} is the stable revision already; abort ends a rollout in progress")
    if target not in good:
        known = ", ".join(good) or "none"
        return Refusal(message=f"{target} is not a good revision that is remembered (known: {known})")
    why = f": {command.why}" if command.why else ""
    reason, message = Reason.ROLLED_BACK_BY_OPERATOR, f"rolled back to {target} by {command.by}{why}"
    against = view.spec.revision.id
    pin = PinRevision(service=view.name, pin=Pin(revision=target, against=against), by=command.by)
    quarantine = Quarantine(service=view.name, revision=against, reason=reason, message=message, by=command.by)
    if against == target:
        return (PinRevision(service=view.name, pin=None, by=command.by),)
    if memory.candidate is None:
        return (quarantine, pin)
    undo = RollBack(service=view.name, revision=memory.candidate, reason=reason, message=message, by=command.by)
    return (undo, quarantine, pin) if memory.candidate != against else (undo, pin)
