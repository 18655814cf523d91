"""What others are to be asked now: derived from Memory, as every effect is."""

from __future__ import annotations

from policies.gates import is_due
from reconciler.planning.plan import Plan
from specs.effects import PostQuestion
from specs.gates import GateCall
from specs.memory import Memory, ServiceMemory


def questions_due(plan: Plan) -> tuple[PostQuestion, ...]:
    """Return the questions that are remembered, not on their way, and not answered."""
    return tuple(
        question
        for _, service in sorted(plan.memory.services.items())
        for call in service.gates
        if (question := _question(plan, service, call)) is not None
    )


def _question(plan: Plan, service: ServiceMemory, call: GateCall) -> PostQuestion | None:
    outward = plan.world.observed.outward
    gate = next((gate for gate in service.wanted.rollout.gates if gate.name == call.gate), None)
    if gate is None or not is_due(call, gate, plan.world.now):
        return None
    if call.key in outward.under_way or outward.reply(call.key, call.failures) is not None:
        return None
    return PostQuestion(
        service=service.name,
        gate=gate.name,
        url=gate.url,
        key=call.key,
        failures=call.failures,
        body=call.body,
        timeout=gate.timeout,
    )


def errand_slots(memory: Memory) -> frozenset[str]:
    """Return what outcomes of calls to others are still waited for."""
    return frozenset(call.key for service in memory.services.values() for call in service.gates)
