"""What is remembered of gates: each question before it is asked, whole, so that a repeat is the same question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.planning.moment import Moment
from specs.canonical import canonical_json
from specs.decisions import AskGate, FallBack, HearGate, OverruleGates, RollBack
from specs.desired import DesiredService, SetWeight
from specs.gates import Gate, GateAt, GateCall, GateKind, GateState
from specs.memory import Rollout, ServiceMemory
from specs.routes import FULL

API_VERSION = "heliostat.dev/gate/v1"


def ask(memory: ServiceMemory, decision: AskGate, moment: Moment) -> ServiceMemory:
    """Remember a question; it is asked once that is saved."""
    call = _call(memory, decision.gate, moment, _Point(step=decision.step, revision=decision.revision))
    return replace(memory, gates=(*memory.gates, call))


def hear(memory: ServiceMemory, decision: HearGate, moment: Moment) -> ServiceMemory:
    """Remember what became of a question."""
    heard = decision.call
    gates = tuple(heard if call.question == heard.question else call for call in memory.gates)
    return replace(memory, gates=gates)


def overrule(memory: ServiceMemory, decision: OverruleGates, moment: Moment) -> ServiceMemory:
    """A person goes past these gates, asked or not."""
    gates = {gate.name: gate for gate in memory.wanted.rollout.gates if gate.name in decision.gates}
    point = _Point(step=decision.step, revision=memory.candidate or "")
    others = (
        call
        for call in memory.gates
        if call.gate not in gates or (call.step, call.revision) != (point.step, point.revision)
    )
    passed = (
        replace(_call(memory, gate, moment, point), state=GateState.OVERRULED, message=f"{decision.by} went on")
        for gate in gates.values()
    )
    return replace(memory, gates=(*others, *passed))


def notices(memory: ServiceMemory, decision: RollBack | FallBack, moment: Moment) -> tuple[GateCall, ...]:
    """Return who is to be told of a rollback."""
    why = {"rollback": {"reason": decision.reason.value, "message": decision.message, "by": decision.by}}
    point = _Point(step=memory.rollout.step if memory.rollout else 0, revision=decision.revision, more=why)
    return tuple(
        _call(memory, gate, moment, point) for gate in memory.wanted.rollout.gates if gate.at is GateAt.AFTER_ROLLBACK
    )


def still_answered(memory: ServiceMemory, new: DesiredService, rollout: Rollout | None) -> tuple[GateCall, ...]:
    """Return the calls that a new spec leaves in force: of gates that it has, and of steps that are what they were.

    `rollout` is the present one at its place among the new steps: a yes to a step of 30% is none to one of 90%.
    """
    kept = tuple(call for call in memory.gates if call.gate in {gate.name for gate in new.rollout.gates})
    if rollout is None or memory.wanted.rollout.steps == new.rollout.steps:
        return kept
    by_step = {gate.name for gate in new.rollout.gates if gate.at is GateAt.BEFORE_STEP}
    same = rollout.step + 1 if rollout == memory.rollout else 0
    places = {weight: index for index, weight in reversed(list(enumerate(_weights(new)))) if weight is not None}
    moved = (_moved(memory, call, places) if call.gate in by_step and call.step >= same else call for call in kept)
    return tuple(call for call in moved if call is not None)


def _weights(service: DesiredService) -> tuple[int | None, ...]:
    return tuple(step.weight if isinstance(step, SetWeight) else None for step in service.rollout.steps)


def _moved(memory: ServiceMemory, call: GateCall, places: Mapping[int, int]) -> GateCall | None:
    """Return a yes at its weight's new place among the steps; None for what is to be asked anew."""
    if call.is_notice:
        return call
    place = places.get(_weight(memory, call.step) or 0)
    is_yes = call.state in (GateState.PASSED, GateState.OVERRULED)
    return replace(call, step=place) if is_yes and place is not None else None


@dataclass(frozen=True, kw_only=True)
class _Point:
    """What a question is about; `more` goes into its body."""

    step: int
    revision: str
    more: Mapping[str, Any] = field(default_factory=dict)


def _call(memory: ServiceMemory, gate: Gate, moment: Moment, point: _Point) -> GateCall:
    started = memory.rollout.started_at if memory.rollout else moment.now
    desired = moment.view.world.desired if moment.view else None
    steps, weight = memory.wanted.rollout.steps, _weight(memory, point.step)
    # A receiver that honours the key must not repeat a yes to 30% when the step has become 90%.
    where = f"{point.step}" if weight is None else f"{point.step}-{weight}"
    body = {
        "apiVersion": API_VERSION,
        "gate": gate.name,
        "at": gate.at.value,
        "kind": gate.kind.value,
        "cluster": moment.surroundings.cluster,
        "service": memory.name,
        "revision": point.revision,
        "stable": memory.stable,
        "commit": str(desired.commit) if desired else None,
        "step": {"index": point.step, "count": len(steps), "setWeight": weight},
        "weights": {name: share * 100 / FULL for name, share in moment.view.weights.items()} if moment.view else {},
        **point.more,
    }
    return GateCall(
        gate=gate.name,
        revision=point.revision,
        step=point.step,
        key=f"{memory.name}/{point.revision}/{started:%Y%m%dT%H%M%S.%f}/{gate.name}/{where}.1",
        body=canonical_json(body),
        next_at=moment.now,
        is_notice=gate.kind is GateKind.NOTIFY,
    )


def _weight(memory: ServiceMemory, number: int) -> int | None:
    """Return the percentage that a step gives the candidate; None for a step that is no weight."""
    steps = memory.wanted.rollout.steps
    step = steps[number] if number < len(steps) else SetWeight(weight=100)
    return step.weight if isinstance(step, SetWeight) else None
