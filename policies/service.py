"""Everything that is decided for one service in one look: the order matters, and is this file's only job."""

from __future__ import annotations

from policies.baseline import given_up
from policies.counsel import stands, troubles
from policies.explain import explain
from policies.gates import hear, is_held_at_gate, questions
from policies.metrics import failed_metrics, silent_metric
from policies.pacing import Veto
from policies.placing import heed
from policies.registry import unknown_policies
from policies.resources import shortages
from policies.retirement import forget_gone, retire_outgoing, retire_removed, withdraw
from policies.revisions import asked_back, choose, judge
from policies.rollout import advance, keep, move, route_as_is
from policies.room import gives_way_to
from policies.sites import too_few_zones
from policies.staging import note_staged
from policies.verdicts import failed_analysis, lacks_requests
from policies.view import ServiceView, view_of
from policies.way_back import watch
from specs.decisions import Decision, GiveWay, Hold, LimitSurge, Park, Proceed, RollBack, StartRollout
from specs.desired import Analysis, Pause
from specs.reasons import Reason
from specs.world import World


def decide(world: World, name: str, veto: Veto) -> tuple[Decision, ...]:
    """Return what to do for a service that Memory knows; never nothing: at least a Hold with a reason.

    A change of course that `veto` puts off must not stop what keeps right what serves now.
    """
    view = view_of(world, name)
    if not world.observed.complete:
        return (blind(view),)
    if view.memory.is_removed:
        return (*retire_removed(view), _removing(view))
    if view.spec.suspend:
        return (*_parked(view), *route_as_is(view), explain(view))
    heard: tuple[Decision, ...] = (*hear(view), *note_staged(view), *heed(view), *troubles(view))
    verdict = judge(view) or failed_analysis(view) or failed_metrics(view) or asked_back(view) or watch(view)
    if verdict:
        return (*heard, *verdict, explain(view))
    course = choose(view)
    if course is None:
        return (*heard, *_go_on(view, veto))
    allowed = _unknown_policy(view, course) or _over_zones(view, veto)(course)
    if isinstance(allowed, Hold):
        return (*heard, allowed, *_parked(view), *stand(view))
    return (*heard, allowed, explain(view))


def _unknown_policy(view: ServiceView, course: Decision) -> Hold | None:
    """Hold a rollout that nobody would steer: its policy is not there, or not enabled. A way back needs none."""
    problems = unknown_policies(view.spec, view.observed.outward.policies)
    if not problems or not isinstance(course, StartRollout) or course.is_fast:
        return None
    return Hold(service=view.name, reason=Reason.POLICY_UNKNOWN, message="; ".join(problems))


def _go_on(view: ServiceView, veto: Veto) -> tuple[Decision, ...]:
    """Go on with the present course, as far as `veto` lets it."""
    rollout = view.memory.rollout
    if view.memory.candidate is None or rollout is None:
        return carry_on(view)
    if waits_for_a_person(view) or is_held_at_gate(view) or silent_metric(view) or stands(view):
        return (*_parked(view), *carry_on(view))
    if turns := _take_turns(view):
        return turns
    pin = view.memory.pin
    is_way_back = rollout.is_fast or (pin is not None and pin.revision == view.memory.candidate)
    allowed = _over_zones(view, veto)(Proceed(service=view.name, is_way_back=is_way_back))
    if isinstance(allowed, Hold):
        return (allowed, *_parked(view), *stand(view))
    if rollout.is_parked:
        return (allowed, explain(view))
    return stop_first(view) or carry_on(view)


def _over_zones(view: ServiceView, veto: Veto) -> Veto:
    """Let no rollout start or go on in fewer zones than the spec wants.

    A way back may, and a first deployment that has begun goes on: nothing else would serve.
    """
    few = too_few_zones(view)

    def checked(decision: Decision) -> Decision:
        is_back = isinstance(decision, RollBack) or (isinstance(decision, StartRollout) and decision.is_fast)
        is_back = is_back or (isinstance(decision, Proceed) and (decision.is_way_back or view.memory.stable is None))
        if few and not is_back:
            return Hold(service=view.name, reason=Reason.TOO_FEW_ZONES, message=few)
        return veto(decision)

    return checked


def _take_turns(view: ServiceView) -> tuple[Decision, ...]:
    """Give way to a rollout that waits for the same room and may hold a part of it; () while nobody is in the way."""
    rollout, to = view.memory.rollout, gives_way_to(view) or ""
    if rollout is None or is_frozen(view) or (not to and not rollout.yields_to):
        return ()
    said = (GiveWay(service=view.name, to=to),) if to != rollout.yields_to else ()
    if not to:
        return (*said, explain(view))
    return (*said, *_parked(view), *withdraw(view), *stand(view))


def stop_first(view: ServiceView) -> tuple[Decision, ...]:
    """Do without surge where nodes have no room for it and the spec allows fewer replicas meanwhile."""
    short = {found.deployment: view.budget(found.deployment) for found in shortages(view, view.memory.candidate)}
    limits = {name: 0 for name, budget in short.items() if budget.unavailable and budget.surge}
    if not limits:
        return ()
    return (LimitSurge(service=view.name, limits={**view.memory.surge, **limits}), explain(view))


def _parked(view: ServiceView) -> tuple[Decision, ...]:
    rollout = view.memory.rollout
    return (Park(service=view.name),) if rollout is not None and not rollout.is_parked else ()


def waits_for_a_person(view: ServiceView) -> bool:
    """Return whether only others move the rollout on: people, a new commit, requests that an analysis lacks."""
    rollout, steps = view.memory.rollout, view.spec.rollout.steps
    if is_frozen(view):
        return True
    if rollout is None or rollout.reached_at is None or rollout.step >= len(steps):
        return False
    step = steps[rollout.step]
    if isinstance(step, Analysis):
        return lacks_requests(view)
    return isinstance(step, Pause) and step.duration is None


def carry_on(view: ServiceView) -> tuple[Decision, ...]:
    """Return the next moves on the present course."""
    if is_frozen(view):
        return (*route_as_is(view), *forget_gone(view), explain(view))
    step = advance(view)
    if step is not None:
        return (step, explain(view))
    return (*questions(view), *given_up(view), *move(view), *retire_outgoing(view), explain(view))


def stand(view: ServiceView) -> tuple[Decision, ...]:
    """Return what keeps a service right while its rollout may not go on: everybody keeps the share that they have.

    Requests leave what broke, lost capacity is put back, and who is on the way out goes.
    """
    if view.memory.candidate is None:
        return carry_on(view)
    if is_frozen(view):
        return (*route_as_is(view), *forget_gone(view), explain(view))
    return (*keep(view), *retire_outgoing(view), explain(view))


def is_frozen(view: ServiceView) -> bool:
    """Return whether the rollout stands still on purpose: a person's pause, or a failure to be looked at."""
    failed = any(cell.memory.failure is not None for cell in view.cells_of(view.memory.candidate))
    return view.memory.pause is not None or failed


def blind(view: ServiceView) -> Hold:
    """Hold because what is seen is not the whole truth: unknown is not empty."""
    observed = view.observed
    reason = Reason.GATEWAY_UNREACHABLE if observed.gateway is None else Reason.RAY_UNREACHABLE
    return Hold(service=view.name, reason=reason, message=observed.problem or "the observation is not complete")


def _removing(view: ServiceView) -> Hold:
    left = sum(1 for cell in view.cells)
    return Hold(service=view.name, reason=Reason.DRAINING, message=f"removed from Git; {left} cell(s) left")
