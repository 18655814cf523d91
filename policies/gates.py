"""Gates: whom to ask before the rollout goes on, and what an answer changes.

Who is asked is remembered before; answers are heard at a later look. A gate can keep the candidate's weight from
rising, and nothing else: it never rolls back, never lowers a weight, and a person or a newer commit goes past it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from policies.recall import recalled
from policies.view import ServiceView
from specs.decisions import AskGate, HearGate, Hold
from specs.desired import SetWeight
from specs.gates import Gate, GateAt, GateCall, GateKind, GateReply, GateState, GateVerdict
from specs.reasons import Reason

LONGEST_BACK_OFF = timedelta(minutes=1)

GOES_PAST = "promote goes on without it"


def gates_before(view: ServiceView) -> tuple[Gate, ...]:
    """Return the gates of the current step. A way straight to 100% has no steps, and none of their gates."""
    rollout = view.memory.rollout
    if rollout is None or rollout.is_fast or view.memory.stable is None or view.memory.candidate is None:
        return ()
    points = _points(view, rollout.step)
    return tuple(gate for gate in view.spec.rollout.gates if gate.at in points)


def _points(view: ServiceView, number: int) -> frozenset[GateAt]:
    steps = view.spec.rollout.steps
    if number >= len(steps):
        return frozenset({GateAt.BEFORE_PROMOTION})
    match steps[number]:
        case SetWeight(weight=100):
            return frozenset({GateAt.BEFORE_STEP, GateAt.BEFORE_PROMOTION})
        case SetWeight():
            return frozenset({GateAt.BEFORE_STEP})
        case _:
            return frozenset()


def call_of(view: ServiceView, gate: Gate) -> GateCall | None:
    """Return what was asked of a gate for the current step, or None. The way to 100% is confirmed once."""
    rollout = view.memory.rollout
    if rollout is None:
        return None
    mine = [call for call in view.memory.gates if call.gate == gate.name and call.revision == view.memory.candidate]
    if gate.at is GateAt.BEFORE_PROMOTION:
        return mine[-1] if mine else None
    return next((call for call in mine if call.step == rollout.step), None)


@recalled
def closed_gates(view: ServiceView) -> tuple[Gate, ...]:
    """Return the gates of the current step that have not said yes."""
    return tuple(gate for gate in gates_before(view) if gate.kind is GateKind.CONFIRM and not _lets_pass(view, gate))


def _lets_pass(view: ServiceView, gate: Gate) -> bool:
    call = call_of(view, gate)
    return call is not None and call.state in (GateState.PASSED, GateState.OVERRULED)


def is_open(view: ServiceView) -> bool:
    """Return whether the current step may be gone to."""
    return not closed_gates(view)


def is_waiting_at_gate(view: ServiceView) -> bool:
    """Return whether an answer is waited for: nobody's lack of progress."""
    return any(call_of(view, gate) is not None for gate in closed_gates(view))


@recalled
def is_held_at_gate(view: ServiceView) -> bool:
    """Return whether a gate said no or cannot answer: that may last, and others may move meanwhile."""
    calls = (call_of(view, gate) for gate in closed_gates(view))
    return any(call is not None and call.state in (GateState.REFUSED, GateState.UNANSWERED) for call in calls)


@recalled
def questions(view: ServiceView) -> tuple[AskGate, ...]:
    """Return what is to be asked now: once per gate and step, when the candidate could take requests."""
    rollout, candidate = view.memory.rollout, view.memory.candidate
    if rollout is None or candidate is None or not view.is_serving(candidate):
        return ()
    return tuple(
        AskGate(service=view.name, gate=gate, revision=candidate, step=rollout.step)
        for gate in gates_before(view)
        if call_of(view, gate) is None
    )


@recalled
def hear(view: ServiceView) -> tuple[HearGate, ...]:
    """Return the answers that came since they were last looked for."""
    heard = []
    gates = {gate.name: gate for gate in view.spec.rollout.gates}
    for call in view.memory.gates:
        reply = view.observed.outward.reply(call.key, call.failures)
        if reply is not None and not call.is_settled and call.gate in gates:
            after = after_reply(call, reply, gates[call.gate], view.now)
            heard.append(HearGate(service=view.name, call=after, was=call.state))
    return tuple(heard)


def after_reply(call: GateCall, reply: GateReply, gate: Gate, now: datetime) -> GateCall:
    """Return a question after the outcome of a try.

    A no stands for the gate's interval, then the question is asked anew. What got no answer is tried again a few
    times, later and later, and after that at the same interval: who cannot answer now may later.
    """
    match reply.verdict:
        case GateVerdict.YES:
            return replace(call, state=GateState.PASSED, message=reply.message)
        case GateVerdict.NO:
            return _asked_anew(call, GateState.REFUSED, reply.message, now + gate.interval)
        case GateVerdict.NOTHING if call.failures < gate.retries:
            wait = min(LONGEST_BACK_OFF, timedelta(seconds=float(2**call.failures)))
            again = replace(call, failures=call.failures + 1, next_at=now + wait)
            return replace(again, state=GateState.ASKED, message=reply.message)
        case GateVerdict.NOTHING:
            return _asked_anew(call, GateState.UNANSWERED, reply.message, now + gate.interval)


def _asked_anew(call: GateCall, state: GateState, message: str, at: datetime) -> GateCall:
    number = call.round + 1
    again = replace(call, round=number, failures=0, key=f"{call.question}.{number}")
    return replace(again, state=state, message=message, next_at=at)


def is_due(call: GateCall, gate: Gate, now: datetime) -> bool:
    """Return whether a question is to be tried now. A clock that was set back must not silence it."""
    waits = timedelta(0) < call.next_at - now <= max(gate.interval, LONGEST_BACK_OFF)
    return not call.is_settled and not waits


def hold_at_gate(view: ServiceView) -> Hold | None:
    """Return why a closed gate holds the rollout, the one that said no first."""
    closed = [(gate, call) for gate in closed_gates(view) if (call := call_of(view, gate)) is not None]
    ranked = sorted(closed, key=lambda pair: _RANK.index(pair[1].state))
    return _hold(view, *ranked[0]) if ranked else None


_RANK = (GateState.REFUSED, GateState.UNANSWERED, GateState.ASKED, GateState.PASSED, GateState.OVERRULED)


def _hold(view: ServiceView, gate: Gate, call: GateCall) -> Hold:
    again, where = f"asked again at {call.next_at:%H:%M:%S}; {GOES_PAST}", _where(view)
    match call.state:
        case GateState.REFUSED:
            text = f"gate {gate.name} says no to {where}: {call.message or 'without a reason'}; {again}"
            return Hold(service=view.name, reason=Reason.GATE_REFUSED, message=text, until=call.next_at)
        case GateState.UNANSWERED:
            text = f"gate {gate.name} gives no answer about {where} ({call.message}); {again}"
            return Hold(service=view.name, reason=Reason.GATE_UNANSWERED, message=text, until=call.next_at)
        case _:
            tries = f" (try {call.failures + 1}; the last one: {call.message})" if call.failures else ""
            text = f"gate {gate.name} is asked about {where}{tries}"
            return Hold(service=view.name, reason=Reason.GATE_PENDING, message=text)


def _where(view: ServiceView) -> str:
    rollout, steps = view.memory.rollout, view.spec.rollout.steps
    number = rollout.step if rollout else 0
    step = steps[number] if number < len(steps) else None
    weight = f"{step.weight}%" if isinstance(step, SetWeight) else "100%"
    return f"{view.memory.candidate} at {weight}"


def left_over(calls: Iterable[GateCall]) -> tuple[GateCall, ...]:
    """Return what is still to be told once a rollout is over: notices that were not delivered yet."""
    return tuple(call for call in calls if call.is_notice and not call.is_settled)
