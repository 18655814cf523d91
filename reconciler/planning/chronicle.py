"""What people read afterwards: each decision as an event, each ended rollout as a line of history."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from specs.commit_notes import CommitNote
from specs.decisions import (
    AdoptSpec,
    Decision,
    EndBake,
    EnterStep,
    FallBack,
    ForgetService,
    GiveWay,
    HearGate,
    HeedWish,
    LatchFailure,
    LimitSurge,
    NoteDrift,
    NoteStaging,
    NoteTrouble,
    Ordered,
    OverruleGates,
    PauseRollout,
    PinRevision,
    Promote,
    Quarantine,
    Release,
    Remove,
    RestoreCell,
    ResumeRollout,
    Retire,
    RollBack,
    SetCapacity,
    SetWeights,
    StartRevision,
    StartRollout,
)
from specs.desired import Commit
from specs.gates import GateCall, GateState
from specs.memory import Event, HistoryEntry, Outcome, OutgoingCause, ServiceMemory
from specs.staging import StagingState

STAGING_FAILED = "StagingFailed"

WARNINGS = RollBack | FallBack | Quarantine | LatchFailure | NoteDrift | NoteTrouble


def is_news(decision: Decision, before: ServiceMemory) -> bool:
    """Return whether a decision changes anything that a person would want to read of."""
    match decision:
        case AdoptSpec(wanted=wanted):
            return before.wanted != wanted or before.stable is None
        case HearGate(call=call, was=was):
            return call.state is not was  # A gate that says no each minute is told of once.
        case HeedWish(message=message):
            return bool(message)
        case SetWeights(weights=weights):
            return _shares(weights) != _shares(before.weights)
        case SetCapacity(cell=key, deployment=name, count=count) if count is not None:
            # Said again until Serve was reached.
            return any(cell.key == key and cell.counts.get(name) != count for cell in before.cells)
        case _:
            return True


def _shares(weights: Mapping[str, int]) -> Mapping[str, int]:
    return {cell: weight for cell, weight in weights.items() if weight}


def event_of(decision: Decision, at: datetime) -> Event | None:
    """Return the event that tells of a decision, or None for those that only keep the books."""
    told = _told(decision)
    if told is None:
        return None
    kind, message, revision = told
    warning = (isinstance(decision, WARNINGS) and kind != "Superseded") or kind == STAGING_FAILED
    by = getattr(decision, "by", "heliostat")
    return Event(
        at=at, service=decision.service, kind=kind, message=message, revision=revision, by=by, is_warning=warning
    )


def _told(decision: Decision) -> tuple[str, str, str] | None:
    tellers = (
        _told_of_course,
        _told_of_the_way_back,
        _told_of_moves,
        _told_of_room,
        _told_of_others,
        _told_of_people,
        _told_of_gates,
        _told_of_staging,
    )
    return next((told for tell in tellers if (told := tell(decision)) is not None), None)


def _told_of_the_way_back(decision: Decision) -> tuple[str, str, str] | None:
    match decision:
        case FallBack(revision=revision, to=to, reason=reason, message=message):
            return "RolledBack", f"{revision} ({reason}): on the way back to {to.id}, {message}", revision
        case EndBake(by=by):
            return "BakeEnded", f"the watch after 100% is over{'' if by == 'heliostat' else f', says {by}'}", ""
        case PinRevision(pin=pin, by=by):
            text = f"{pin.revision} instead of {pin.against}" if pin else "Git decides again"
            return "Pinned" if pin else "Unpinned", f"{text} (by {by})", pin.revision if pin else ""
        case _:
            return None


def _told_of_gates(decision: Decision) -> tuple[str, str, str] | None:
    match decision:
        case OverruleGates(gates=gates, step=step, by=by):
            return "GateOverruled", f"{', '.join(gates)} before step {step + 1}, by {by}", ""
        case HearGate(call=call):
            return _told_of_call(call)
        case _:
            return None


def _told_of_staging(decision: Decision) -> tuple[str, str, str] | None:
    match decision:
        case NoteStaging(staged=staged) if staged.state is StagingState.DONE:
            return "WeightsStaged", f"on {staged.progress.nodes} node(s)", staged.revision
        case NoteStaging(staged=staged):
            return STAGING_FAILED, f"{staged.message}; replicas there fetch their weights themselves", staged.revision
        case _:
            return None


def _told_of_call(call: GateCall) -> tuple[str, str, str] | None:
    said = f": {call.message}" if call.message else ""
    match call.state:
        case GateState.PASSED if call.is_notice:
            return "GateNotified", f"{call.gate} was told", call.revision
        case GateState.PASSED:
            return "GatePassed", f"{call.gate} lets step {call.step + 1} pass{said}", call.revision
        case GateState.REFUSED:
            return "GateRefused", f"{call.gate} refuses step {call.step + 1}{said}", call.revision
        case GateState.UNANSWERED:
            return "GateUnanswered", f"{call.gate} before step {call.step + 1}{said}", call.revision
        case GateState.ASKED | GateState.OVERRULED:
            return None


def _told_of_course(decision: Decision) -> tuple[str, str, str] | None:
    match decision:
        case StartRollout(revision=revision, is_fast=fast):
            how = "straight back to a revision that was good" if fast else "a new revision"
            return "RolloutStarted", f"{revision.id}: {how}", revision.id
        case Promote(revision=revision):
            return "Promoted", f"{revision} takes all requests", revision
        case RollBack(revision=revision, cause=OutgoingCause.SUPERSEDED, message=message):
            return "Superseded", f"{revision} is given up: {message}", revision
        case RollBack(revision=revision, reason=reason, message=message):
            return "RolledBack", f"{revision} ({reason}): {message}", revision
        case Quarantine(revision=revision, reason=reason, message=message):
            return "Quarantined", f"{revision} ({reason}): {message}", revision
        case LatchFailure(cell=cell, failure=failure):
            return "CellFailed", f"{cell.name} ({failure.reason}): {failure.message}", cell.revision
        case _:
            return None


def _told_of_others(decision: Decision) -> tuple[str, str, str] | None:
    """Tell what others did: somebody in Serve, and what was done about it; a policy that fails."""
    match decision:
        case RestoreCell(cell=cell):
            return "CellRestored", f"{cell.name} was missing in Serve", cell.revision
        case NoteDrift(cell=cell, text=text):
            return "Drifted", text, cell.revision
        case NoteTrouble(problem=problem):
            return "PolicyFailed", problem, ""
        case HeedWish(message=message):
            return "PlacementWished", message, ""
        case _:
            return None


def _told_of_moves(decision: Decision) -> tuple[str, str, str] | None:
    match decision:
        case StartRevision(cell=cell, counts=counts, bounds=bounds):
            sizes = [f"{name} {count}" for name, count in sorted(counts.items())]
            sizes += [f"{name} {b.min_replicas}-{b.max_replicas}" for name, b in sorted(bounds.items())]
            return "CellCreated", f"{cell.name} with {', '.join(sizes) or 'its code counts'}", cell.revision
        case SetCapacity(cell=cell, deployment=name, count=count, bounds=bounds):
            size = f"{bounds.min_replicas}-{bounds.max_replicas}" if bounds else str(count)
            return "Scaled", f"{name} of {cell.revision} to {size}", cell.revision
        case SetWeights(message=message):
            return "WeightsChanged", message, ""
        case Retire(cell=cell):
            return "CellRetired", cell.name, cell.revision
        case Remove():
            return "Removing", "it left the repository", ""
        case _:
            return None


def _told_of_room(decision: Decision) -> tuple[str, str, str] | None:
    match decision:
        case GiveWay(to=to, goes_back=True):
            text = "waits for room that no other way would make: this rollout gives its requests back and begins again"
            return "GaveWay", f"{to} {text} when there is room", ""
        case GiveWay(to=to) if to:
            return "GaveWay", f"{to} waits for the same room and goes first; what this rollout holds of it goes", ""
        case LimitSurge(limits=limits) if 0 not in limits.values():
            return "SurgeLimited", f"no room on the nodes for more: one at a time ({', '.join(sorted(limits))})", ""
        case LimitSurge(limits=limits):
            return "SurgeLimited", f"no room on the nodes: old replicas stop first ({', '.join(sorted(limits))})", ""
        case _:
            return None


def _told_of_people(decision: Decision) -> tuple[str, str, str] | None:
    match decision:
        case Ordered(command=command):
            return "Ordered", str(command), command.to or ""
        case EnterStep(step=step, by=by, message=message):
            why = f": {message}" if message else ""
            return "StepEntered", f"step {step + 1}{'' if by == 'heliostat' else f' by {by}'}{why}", ""
        case PauseRollout(by=by, why=why):
            return "PausedByOperator", f"by {by}{': ' + why if why else ''}", ""
        case ResumeRollout(by=by):
            return "ResumedByOperator", f"by {by}", ""
        case Release(revision=revision, by=by):
            return "Released", f"{revision} may be tried again, says {by}", revision
        case AdoptSpec(wanted=wanted):
            where = f"{wanted.source.path}:{wanted.source.line}"
            return "SpecChanged", f"{where} wants {wanted.revision.id}", wanted.revision.id
        case ForgetService():
            return "Removed", "nothing of it is left", ""
        case _:
            return None


def noted(note: CommitNote, at: datetime) -> Event:
    """Return the event of something remarkable about a commit; it is of no service."""
    kind = "CommitRefused" if note.is_refused else "HistoryRewritten"
    return Event(at=at, service="", kind=kind, message=f"{note.reason.value}: {note.message}", is_warning=True)


def history_of(
    decision: Decision, before: ServiceMemory | None, at: datetime, commit: Commit | None
) -> HistoryEntry | None:
    """Return the line of history that a decision ends a rollout with, or None."""
    ended = _ended(decision, before)
    if ended is None:
        return None
    revision, outcome, message = ended
    rollout = before.rollout if before else None
    return HistoryEntry(
        at=at,
        service=decision.service,
        revision=revision,
        commit=str(commit) if commit else "",
        outcome=outcome,
        message=message,
        started_at=rollout.started_at if rollout else None,
        peak=before.peak if before else 0,
        acts=before.acts if before else (),
    )


def _ended(decision: Decision, before: ServiceMemory | None) -> tuple[str, Outcome, str] | None:
    match decision:
        case Promote(revision=revision):
            first = before is None or before.stable is None
            return revision, Outcome.DEPLOYED if first else Outcome.PROMOTED, ""
        case RollBack(revision=revision, cause=OutgoingCause.SUPERSEDED, message=message):
            return revision, Outcome.SUPERSEDED, message
        case RollBack(revision=revision, reason=reason, message=message):
            return revision, Outcome.ROLLED_BACK, f"{reason}: {message}"
        case FallBack(revision=revision, reason=reason, message=message) if before and before.stable == revision:
            return revision, Outcome.ROLLED_BACK, f"{reason}: {message}"
        case StartRollout(revision=revision) if before is not None and before.candidate is not None:
            return before.candidate, Outcome.SUPERSEDED, f"{revision.id} is newer"
        case Remove():
            return (before.stable or "" if before else ""), Outcome.REMOVED, ""
        case _:
            return None
