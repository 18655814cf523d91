"""Everything that is decided for one service in one look: the order matters, and is this file's only job."""

from __future__ import annotations

from policies.baseline import given_up
from policies.counsel import troubles
from policies.explain import explain
from policies.gates import hear, questions
from policies.metrics import failed_metrics
from policies.pacing import Veto
from policies.placing import heed
from policies.registry import unknown_policies
from policies.resources import shortages
from policies.retirement import but_routed, forget_gone, retire_outgoing, retire_removed, withdraw
from policies.revisions import asked_back, choose, give_up_meanwhile, judge
from policies.rollout import advance, give_back, keep, move, route_as_is
from policies.room import gives_way_to, holds_itself_up, is_way_back, stand_aside
from policies.sites import too_few_zones
from policies.staging import note_staged
from policies.standing import is_frozen, waits_for_others
from policies.verdicts import failed_analysis
from policies.view import ServiceView, view_of
from policies.way_back import watch
from specs.decisions import Decision, GiveWay, Hold, LimitSurge, Park, Proceed, RollBack, StartRollout
from specs.reasons import Reason
from specs.world import World


def decide(world: World, name: str, veto: Veto) -> tuple[Decision, ...]:
    """Return what to do for a service that Memory knows; never nothing: at least a Hold with a reason.

    A change of course that `veto` puts off must not stop what keeps right what serves now.
    """
    return but_routed(_decided(view_of(world, name), veto))


def _decided(view: ServiceView, veto: Veto) -> tuple[Decision, ...]:
    if not view.is_complete:
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
    if not isinstance(allowed, Hold):
        return (*heard, allowed, explain(view))
    if (ended := give_up_meanwhile(view, allowed)) is not None:
        return (*heard, ended, allowed)
    return (*heard, allowed, *_parked(view), *stand(view))


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
        return _hold_back(view) or carry_on(view)
    if turns := _take_turns(view):
        return turns
    if waits_for_others(view):
        return (*_parked(view), *carry_on(view))
    allowed = _over_zones(view, veto)(Proceed(service=view.name, is_way_back=is_way_back(view)))
    if isinstance(allowed, Hold):
        return (allowed, *_parked(view), *stand(view))
    if rollout.is_parked:
        return (allowed, explain(view))
    return stop_first(view) or use_less_surge(view) or carry_on(view)


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
    rollout, way = view.memory.rollout, gives_way_to(view)
    if rollout is None or is_frozen(view) or (way is None and not rollout.yields_to):
        return ()
    if way is None:
        return (GiveWay(service=view.name, to=""), explain(view))
    said = (way,) if way.to != rollout.yields_to or way.goes_back else ()
    if way.goes_back:
        return (*said, *_parked(view), *give_back(view), *retire_outgoing(view), explain(view))
    return (*said, *_parked(view), *withdraw(view), *stand_aside(view), *retire_outgoing(view), explain(view))


def _hold_back(view: ServiceView) -> tuple[Decision, ...]:
    """Let a way back stand where it is while another rollout has to have moved first; () while it may go on."""
    way = gives_way_to(view)
    if way is None:
        return use_less_surge(view)
    text = f"requests go back to {view.memory.stable} when there is room; {way.to} waits for the same and goes first"
    hold = Hold(service=view.name, reason=Reason.INSUFFICIENT_RESOURCES, message=text)
    return (*stand_aside(view), *retire_outgoing(view), hold)


def stop_first(view: ServiceView) -> tuple[Decision, ...]:
    """Do without surge where nodes have no room for it and the spec allows fewer replicas meanwhile."""
    short = {found.deployment: view.budget(found.deployment) for found in shortages(view, view.memory.candidate)}
    limits = {name: 0 for name, budget in short.items() if budget.unavailable and budget.surge}
    if not limits:
        return ()
    return (LimitSurge(service=view.name, limits={**view.memory.surge, **limits}), explain(view))


def use_less_surge(view: ServiceView) -> tuple[Decision, ...]:
    """Do with a surge of one where there is no room for more, and what there is went to some deployments only."""
    if not holds_itself_up(view):
        return ()
    more = {name: 1 for name in view.deployments if view.budget(name).surge > 1}
    return (LimitSurge(service=view.name, limits={**view.memory.surge, **more}), *stand_aside(view), explain(view))


def _parked(view: ServiceView) -> tuple[Decision, ...]:
    rollout = view.memory.rollout
    return (Park(service=view.name),) if rollout is not None and not rollout.is_parked else ()


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


def blind(view: ServiceView) -> Hold:
    """Hold because what is seen is not the whole truth: unknown is not empty."""
    observed = view.observed
    reason = Reason.GATEWAY_UNREACHABLE if observed.gateway is None else Reason.RAY_UNREACHABLE
    return Hold(service=view.name, reason=reason, message=observed.problem or "the observation is not complete")


def _removing(view: ServiceView) -> Hold:
    left = sum(1 for cell in view.cells)
    return Hold(service=view.name, reason=Reason.DRAINING, message=f"removed from Git; {left} cell(s) left")
