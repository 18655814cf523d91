"""What a decision changes in Memory. Saved before the effects that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from policies.drift import TRUCE
from policies.gates import left_over
from policies.moving import base_of_move
from policies.steps import resettle
from policies.window import reference_evidence
from reconciler.planning import remember_gates
from reconciler.planning.compose import compose_config, recompose_config
from reconciler.planning.moment import Moment
from specs.cells import CellKey
from specs.decisions import (
    AdoptSpec,
    AskGate,
    Decision,
    Drain,
    EndBake,
    EndOutgoing,
    EnterStep,
    FallBack,
    ForgetCell,
    ForgetService,
    GiveWay,
    HearGate,
    HeedWish,
    Hold,
    LatchFailure,
    LimitSurge,
    NoteDrift,
    NoteStaging,
    NoteTrouble,
    Ordered,
    OverruleGates,
    Park,
    PauseRollout,
    PinRevision,
    Proceed,
    Promote,
    Quarantine,
    ReachStep,
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
from specs.desired import AutoScale, Revision
from specs.evidence import Evidence
from specs.memory import (
    Act,
    Baking,
    CellMemory,
    OperatorPause,
    Outgoing,
    OutgoingCause,
    Pin,
    Quarantined,
    Rollout,
    ServiceMemory,
)
from specs.updated import updated

REVISIONS_KEPT = 5
"""Good revisions that stay recreatable: enough for a way back, not a growing archive. More if `rollbackWindow` is."""

ACTS_KEPT = 50
"""Commands remembered until the next line of history: a script that commands all day must not fill Memory."""


def new_service(decision: AdoptSpec) -> ServiceMemory:
    """Return the memory of a service that was never seen before."""
    return ServiceMemory(name=decision.service, wanted=decision.wanted)


def remember(memory: ServiceMemory, decision: Decision, moment: Moment) -> ServiceMemory:
    """Return `memory` after `decision`. Pure; a Hold changes nothing."""
    if isinstance(decision, Hold | ForgetService):
        return memory
    change: Callable[[ServiceMemory, Any, Moment], ServiceMemory] = _CHANGES[type(decision)]
    return change(memory, decision, moment)


def _adopt(memory: ServiceMemory, decision: AdoptSpec, moment: Moment) -> ServiceMemory:
    """Take the new spec; another wanted revision ends quarantines and an operator's pin."""
    new = decision.wanted
    memory = _returned(memory, moment) if memory.is_removed else memory
    changed = new.revision.id != memory.wanted.revision.id
    revisions = tuple(new.revision if record.id == new.revision.id else record for record in memory.revisions)
    cells = tuple(
        replace(cell, config=recompose_config(new.revision, cell)) if cell.key.revision == new.revision.id else cell
        for cell in (replace(cell, drifts=()) for cell in memory.cells)  # Who commits means it: it is put right again.
    )
    steps = memory.wanted.rollout.steps, new.rollout.steps
    rollout = resettle(memory.rollout, *steps) if memory.rollout else None
    return replace(
        memory,
        wanted=new,
        queued_at=_queued_at(memory, new.revision.id, moment),
        commit=decision.commit if changed or memory.stable is None else memory.commit,
        rollout=rollout,
        gates=remember_gates.still_answered(memory, new, rollout),
        revisions=revisions,
        cells=cells,
        quarantine=() if changed else memory.quarantine,
        pin=None if changed else memory.pin,
    )


def _queued_at(memory: ServiceMemory, wanted: str, moment: Moment) -> datetime | None:
    """Who waits keeps its place when a newer commit comes; who has what it wants waits for nothing."""
    if wanted in (memory.stable, memory.candidate):
        return None
    is_new = wanted != memory.wanted.revision.id or memory.stable is None
    return memory.queued_at or (moment.now if is_new else None)


def _returned(memory: ServiceMemory, moment: Moment) -> ServiceMemory:
    """A service that comes back while it is taken away keeps its stable revision if that still runs.

    Everything else of it goes on leaving; without a stable revision it is deployed like a new service.
    """
    stable = memory.stable if any(not cell.is_baseline for cell in memory.cells_of(memory.stable)) else None
    cells = tuple(replace(cell, drain_since=None) if cell.key.revision == stable else cell for cell in memory.cells)
    known = {stable, *(out.revision for out in memory.outgoing)}
    left = dict.fromkeys(cell.key.revision for cell in cells if cell.key.revision not in known)
    leaving = (Outgoing(revision=rev, since=moment.now, cause=OutgoingCause.SUPERSEDED) for rev in left)
    return replace(
        memory,
        stable=stable,
        candidate=None,
        pause=None,
        baking=None,
        cells=cells,
        outgoing=(*memory.outgoing, *leaving),
        is_removed=False,
    )


def _start_rollout(memory: ServiceMemory, decision: StartRollout, moment: Moment) -> ServiceMemory:
    revision = decision.revision
    outgoing = tuple(out for out in memory.outgoing if out.revision != revision.id)
    if memory.candidate is not None:
        outgoing = (*outgoing, Outgoing(revision=memory.candidate, since=moment.now, cause=decision.previous))
    cells = tuple(_revived(cell) if cell.key.revision == revision.id else cell for cell in memory.cells)
    return replace(
        memory,
        gates=left_over(memory.gates),
        candidate=revision.id,
        rollout=Rollout(started_at=moment.now, progress_at=moment.now, is_fast=decision.is_fast),
        pause=None,
        baking=None,
        outgoing=outgoing,
        cells=cells,
        revisions=_with_record(memory, revision),
        base=_autoscaling_base(memory, revision, moment),
        surge=dict(decision.surge),
        queued_at=None,
        peak=0,
        troubles={},
    )


def _revived(cell: CellMemory) -> CellMemory:
    """A live cell is used again; one that failed goes, and a new generation takes its place. Baselines go anyway."""
    if cell.is_baseline:
        return cell
    if cell.failure is not None:
        return replace(cell, is_retired=True)
    return cell if cell.is_retired else replace(cell, drain_since=None)


def _with_record(memory: ServiceMemory, revision: Revision) -> tuple[Revision, ...]:
    """Keep what is live, wanted or recently good; of the rest those go first that never were good."""
    others = [record for record in memory.revisions if record.id != revision.id]
    in_use = {cell.key.revision for cell in memory.cells} | {memory.stable, memory.candidate}
    spare = [record for record in others if record.id not in in_use]
    spare.sort(key=lambda record: record.id in memory.good)
    kept = max(REVISIONS_KEPT, memory.wanted.rollout.rollback_window)
    dropped = {record.id for record in spare[: max(0, len(spare) - kept)]}
    return (*(record for record in others if record.id not in dropped), revision)


def _autoscaling_base(memory: ServiceMemory, revision: Revision, moment: Moment) -> dict[str, int]:
    view = moment.view
    if view is None or not memory.cells:
        return {}
    if memory.base:
        return dict(memory.base)
    scales = {name: (view.scale(name), revision.scale(name)) for name in view.deployments}
    autoscaled = [name for name, both in scales.items() if any(isinstance(scale, AutoScale) for scale in both)]
    return {name: view.budget(name).target for name in autoscaled}


def _start_revision(memory: ServiceMemory, decision: StartRevision, moment: Moment) -> ServiceMemory:
    record = memory.revision(decision.cell.revision)
    if record is None:
        return memory
    gateway_url = moment.surroundings.gateway_url
    cell = CellMemory(
        key=decision.cell,
        config=compose_config(record, decision.cell, gateway_url, autoscaled=bool(decision.bounds)),
        counts=decision.counts,
        bounds=decision.bounds,
        created_at=moment.now,
        building_since=moment.now,
        is_baseline=decision.is_baseline,
        joins=decision.joins,
    )
    used = memory.generations.get(decision.cell.revision, 0)
    return replace(
        memory,
        cells=(*memory.cells, cell),
        generations={**memory.generations, decision.cell.revision: max(used, decision.cell.generation + 1)},
    )


def _set_capacity(memory: ServiceMemory, decision: SetCapacity, moment: Moment) -> ServiceMemory:
    def changed(cell: CellMemory) -> CellMemory:
        if decision.bounds is not None:
            return replace(cell, bounds={**cell.bounds, decision.deployment: decision.bounds})
        return replace(cell, counts={**cell.counts, decision.deployment: decision.count or 0})

    # The first look at a move raises bounds already: the next one could not tell that from what the requests ask for.
    base = base_of_move(moment.view) if moment.view is not None and not memory.base else memory.base
    return updated(_with_cell(memory, decision.cell, changed), base=base)


def _set_weights(memory: ServiceMemory, decision: SetWeights, moment: Moment) -> ServiceMemory:
    """Who gets requests (again, when all others broke) has not begun to drain."""
    cells = tuple(
        replace(cell, drain_since=None) if decision.weights.get(cell.key.name, 0) > 0 else cell for cell in memory.cells
    )
    return replace(memory, weights=dict(decision.weights), cells=cells)


def _limit_surge(memory: ServiceMemory, decision: LimitSurge, moment: Moment) -> ServiceMemory:
    return replace(memory, surge=dict(decision.limits))


def _give_way(memory: ServiceMemory, decision: GiveWay, moment: Moment) -> ServiceMemory:
    if memory.rollout is None:
        return memory
    rollout, cells = replace(memory.rollout, yields_to=decision.to), memory.cells
    if decision.goes_back:
        rollout = replace(rollout, step=0, reached_at=None)
    if not decision.to:  # What had only begun to drain is of use again.
        cells = tuple(_revived(cell) if cell.key.revision == memory.candidate else cell for cell in cells)
    return replace(memory, rollout=rollout, cells=cells)


def _park(memory: ServiceMemory, decision: Park, moment: Moment) -> ServiceMemory:
    return replace(memory, rollout=replace(memory.rollout, is_parked=True) if memory.rollout else None)


def _proceed(memory: ServiceMemory, decision: Proceed, moment: Moment) -> ServiceMemory:
    """Its deadline starts anew: it stood still on purpose."""
    if memory.rollout is None:
        return memory
    return replace(memory, rollout=replace(memory.rollout, is_parked=False, progress_at=moment.now))


def _enter_step(memory: ServiceMemory, decision: EnterStep, moment: Moment) -> ServiceMemory:
    if memory.rollout is None:
        return memory
    return replace(memory, rollout=replace(memory.rollout, step=decision.step, reached_at=None))


def _reach_step(memory: ServiceMemory, decision: ReachStep, moment: Moment) -> ServiceMemory:
    if memory.rollout is None:
        return memory
    return replace(memory, rollout=replace(memory.rollout, reached_at=moment.now))


def _promote(memory: ServiceMemory, decision: Promote, moment: Moment) -> ServiceMemory:
    """The candidate is stable now; the old one stays warm. Unlisted deployments take the new code's counts.

    What was good before is not watched: there would be nothing but a revision that was left to fall back on.
    """
    outgoing, baking = memory.outgoing, None
    if memory.stable is not None and memory.stable != decision.revision:
        is_new = memory.rollout is not None and not memory.rollout.is_fast
        if is_new and memory.wanted.rollout.bake and memory.quarantined(memory.stable) is None:
            before = reference_evidence(moment.view) if moment.view else Evidence()
            baking = Baking(revision=decision.revision, back_to=memory.stable, since=moment.now, before=before)
        outgoing = (*outgoing, Outgoing(revision=memory.stable, since=moment.now, cause=OutgoingCause.REPLACED))
    learned = dict(memory.learned)
    for cell in memory.cells_of(decision.revision):
        learned |= cell.code
    kept = {record.id for record in memory.revisions} - {decision.revision}
    return replace(
        memory,
        stable=decision.revision,
        candidate=None,
        rollout=None,
        pause=None,
        baking=baking,
        gates=left_over(memory.gates),
        outgoing=outgoing,
        learned=learned,
        good=(*(good for good in memory.good if good in kept), decision.revision),
    )


def _roll_back(memory: ServiceMemory, decision: RollBack, moment: Moment) -> ServiceMemory:
    outgoing = (*memory.outgoing, Outgoing(revision=decision.revision, since=moment.now, cause=decision.cause))
    is_failure = decision.cause is OutgoingCause.ROLLED_BACK
    notices = remember_gates.notices(memory, decision, moment) if is_failure else ()
    memory = replace(
        memory, candidate=None, rollout=None, pause=None, outgoing=outgoing, gates=(*left_over(memory.gates), *notices)
    )
    if not decision.quarantine:
        return memory
    return _quarantined(memory, decision.revision, decision, moment)


def _quarantine(memory: ServiceMemory, decision: Quarantine, moment: Moment) -> ServiceMemory:
    return _quarantined(memory, decision.revision, decision, moment)


def _fall_back(memory: ServiceMemory, decision: FallBack, moment: Moment) -> ServiceMemory:
    pin = Pin(revision=decision.to.id, against=decision.revision)
    told = (*memory.gates, *remember_gates.notices(memory, decision, moment))
    memory = replace(_quarantined(memory, decision.revision, decision, moment), pin=pin, gates=told)
    start = StartRollout(service=decision.service, revision=decision.to, is_fast=decision.is_fast)
    return _start_rollout(memory, start, moment)


def _end_bake(memory: ServiceMemory, decision: EndBake, moment: Moment) -> ServiceMemory:
    return replace(memory, baking=None)


def _ordered(memory: ServiceMemory, decision: Ordered, moment: Moment) -> ServiceMemory:
    act = Act(at=moment.now, text=str(decision.command))
    return replace(memory, acts=(*memory.acts, act)[-ACTS_KEPT:])


def _quarantined(
    memory: ServiceMemory, revision: str, decision: Quarantine | RollBack | FallBack, moment: Moment
) -> ServiceMemory:
    entry = Quarantined(revision=revision, reason=decision.reason, message=decision.message, at=moment.now)
    others = tuple(other for other in memory.quarantine if other.revision != revision)
    good = tuple(other for other in memory.good if other != revision)
    return replace(memory, quarantine=(*others, entry), good=good)


def _release(memory: ServiceMemory, decision: Release, moment: Moment) -> ServiceMemory:
    quarantine = tuple(q for q in memory.quarantine if q.revision != decision.revision)
    return replace(memory, quarantine=quarantine, queued_at=moment.now)


def _pin(memory: ServiceMemory, decision: PinRevision, moment: Moment) -> ServiceMemory:
    return replace(memory, pin=decision.pin)


def _pause(memory: ServiceMemory, decision: PauseRollout, moment: Moment) -> ServiceMemory:
    return replace(memory, pause=OperatorPause(by=decision.by, why=decision.why, at=moment.now))


def _resume(memory: ServiceMemory, decision: ResumeRollout, moment: Moment) -> ServiceMemory:
    return replace(memory, pause=None)


def _latch(memory: ServiceMemory, decision: LatchFailure, moment: Moment) -> ServiceMemory:
    return _with_cell(memory, decision.cell, lambda cell: replace(cell, failure=decision.failure))


def _drain(memory: ServiceMemory, decision: Drain, moment: Moment) -> ServiceMemory:
    return _with_cell(memory, decision.cell, lambda cell: replace(cell, drain_since=moment.now))


def _retire(memory: ServiceMemory, decision: Retire, moment: Moment) -> ServiceMemory:
    return _with_cell(memory, decision.cell, lambda cell: replace(cell, is_retired=True, is_urgent=decision.is_urgent))


def _restore(memory: ServiceMemory, decision: RestoreCell, moment: Moment) -> ServiceMemory:
    return _with_cell(
        memory, decision.cell, lambda cell: replace(cell, restores=cell.restores + 1, restored_at=moment.now)
    )


def _note_drift(memory: ServiceMemory, decision: NoteDrift, moment: Moment) -> ServiceMemory:
    """Count a drift anew; those that nobody repeated for long are forgotten."""
    recent = moment.now - TRUCE

    def changed(cell: CellMemory) -> CellMemory:
        others = (old for old in cell.drifts if old.where != decision.drift.where and old.at >= recent)
        return replace(cell, drifts=(*others, decision.drift))

    return _with_cell(memory, decision.cell, changed)


def _note_trouble(memory: ServiceMemory, decision: NoteTrouble, moment: Moment) -> ServiceMemory:
    return replace(memory, troubles={**memory.troubles, decision.policy: moment.now})


def _forget_cell(memory: ServiceMemory, decision: ForgetCell, moment: Moment) -> ServiceMemory:
    name = decision.cell.name
    return replace(
        memory,
        cells=tuple(cell for cell in memory.cells if cell.key != decision.cell),
        weights={cell: weight for cell, weight in memory.weights.items() if cell != name},
    )


def _end_outgoing(memory: ServiceMemory, decision: EndOutgoing, moment: Moment) -> ServiceMemory:
    return replace(memory, outgoing=tuple(out for out in memory.outgoing if out.revision != decision.revision))


def _remove(memory: ServiceMemory, decision: Remove, moment: Moment) -> ServiceMemory:
    return replace(memory, is_removed=True, rollout=None, baking=None, weights={}, gates=())


def _with_cell(memory: ServiceMemory, key: CellKey, change: Callable[[CellMemory], CellMemory]) -> ServiceMemory:
    return replace(memory, cells=tuple(change(cell) if cell.key == key else cell for cell in memory.cells))


_CHANGES: dict[type, Callable[[ServiceMemory, Any, Moment], ServiceMemory]] = {
    AdoptSpec: _adopt,
    StartRollout: _start_rollout,
    StartRevision: _start_revision,
    SetCapacity: _set_capacity,
    SetWeights: _set_weights,
    LimitSurge: _limit_surge,
    GiveWay: _give_way,
    Park: _park,
    Proceed: _proceed,
    EnterStep: _enter_step,
    ReachStep: _reach_step,
    AskGate: remember_gates.ask,
    HearGate: remember_gates.hear,
    OverruleGates: remember_gates.overrule,
    NoteStaging: lambda memory, decision, moment: replace(memory, staged=decision.staged),
    Promote: _promote,
    RollBack: _roll_back,
    Quarantine: _quarantine,
    Release: _release,
    PinRevision: _pin,
    FallBack: _fall_back,
    EndBake: _end_bake,
    Ordered: _ordered,
    PauseRollout: _pause,
    ResumeRollout: _resume,
    LatchFailure: _latch,
    Drain: _drain,
    Retire: _retire,
    RestoreCell: _restore,
    NoteDrift: _note_drift,
    NoteTrouble: _note_trouble,
    HeedWish: lambda memory, decision, moment: replace(memory, placing=decision.placing),
    ForgetCell: _forget_cell,
    EndOutgoing: _end_outgoing,
    Remove: _remove,
}
"""A table instead of a match of twenty arms; a unit test holds it complete against the Decision union."""
