"""Why a service stands where it stands: one sentence for a person, with its reason."""

from __future__ import annotations

from datetime import datetime

from policies.baseline import fresh_line, is_awaited, left_over
from policies.counsel import aim, keeps, stands
from policies.gates import hold_at_gate
from policies.health import deadline_at
from policies.layout import unplaced
from policies.metrics import silent_metric, unmeasured
from policies.placing import followed
from policies.recall import recalled
from policies.resources import shortages
from policies.retirement import warm_until
from policies.rollout import goal_weight, goal_weights, layout_now
from policies.room import locked_with
from policies.sites import too_few_zones
from policies.steps import header_matches
from policies.traffic import ready_share
from policies.verdicts import NOTHING_COMPARED, analysis_until, judgement, waiting_time
from policies.view import CellView, ServiceView
from policies.way_back import baking_until, regression
from specs.decisions import Hold
from specs.desired import Analysis, Pause
from specs.memory import OutgoingCause
from specs.observed import ReplicaState
from specs.reasons import Reason
from specs.routes import FULL
from specs.wishes import with_message


@recalled
def explain(view: ServiceView) -> Hold:
    """Return the reason that a person should see first."""
    return (
        _frozen(view)
        or _overcommitted(view)
        or _candidate(view)
        or _going_back(view)
        or _quarantine(view)
        or _baking(view)
        or _leaving(view)
        or _stable(view)
        or Hold(service=view.name, reason=Reason.STEADY, message=f"{view.memory.stable} serves all requests")
    )


def _hold(view: ServiceView, reason: Reason, message: str, until: datetime | None = None) -> Hold:
    return Hold(service=view.name, reason=reason, message=message, until=until)


def _frozen(view: ServiceView) -> Hold | None:
    if view.spec.suspend:
        return _hold(view, Reason.SUSPENDED, "suspend is true in Git: capacity and weights stay as they are")
    pause = view.memory.pause
    if pause is not None:
        why = f": {pause.why}" if pause.why else ""
        return _hold(view, Reason.PAUSED_BY_OPERATOR, f"paused by {pause.by}{why}; resume goes on")
    for cell in view.cells_of(view.memory.candidate):
        if cell.memory.failure is not None:
            text = f"{cell.memory.failure.reason}: {cell.memory.failure.message}"
            kept = keeps(view)
            if kept is not None:
                said = f"policy {view.spec.rollout.rollback_policy} keeps it: {kept.message or 'it gave no reason'}"
                return _hold(view, Reason.POLICY_HOLDS, f"{text} ({said}; abort or push)")
            return _hold(view, Reason.AUTO_ROLLBACK_DISABLED, f"{text} (autoRollback is off: abort or push)")
    return None


def _overcommitted(view: ServiceView) -> Hold | None:
    """Return a Hold when the stable revision has requests but no replica that answers."""
    stable = view.memory.stable
    if stable is None or view.weights.get(stable, 0) == 0 or view.is_serving(stable):
        return None
    gateway = view.observed.gateway
    way = "" if gateway is None or gateway.is_direct else " through Serve's proxies; does the gateway reach their port?"
    return _hold(view, Reason.OVERCOMMITTED, f"no replica of the stable revision {stable} answers{way}")


def _candidate(view: ServiceView) -> Hold | None:
    candidate, rollout = view.memory.candidate, view.memory.rollout
    if candidate is None or rollout is None:
        return None
    cells = view.cells_of(candidate)
    if rollout.yields_to:
        turn = f"{candidate} waits for room on the nodes, and gives way to {rollout.yields_to}, which goes first"
        return _hold(view, Reason.INSUFFICIENT_RESOURCES, turn)
    if not cells:
        return _hold(view, Reason.CAPACITY_BUDGET, f"waiting for room to start {candidate}: {_room_text(view)}")
    short = shortages(view, candidate)
    if short:
        wanting = f"{candidate} is blocked: {'; '.join(map(str, short))}{_lock(view)}"
        return _hold(view, Reason.INSUFFICIENT_RESOURCES, wanting)
    waiting = next((text for cell in cells if (text := _not_started(cell)) is not None), None)
    if waiting is not None:
        deadline = min((at for cell in cells if (at := deadline_at(view, cell)) is not None), default=None)
        return _hold(view, Reason.BUILDING, f"{candidate}: {waiting}", deadline)
    return _awaiting_baseline(view) or _step(view, candidate)


def _awaiting_baseline(view: ServiceView) -> Hold | None:
    if not is_awaited(view):
        return None
    states = [_not_started(cell) for cell in view.cells_of(fresh_line(view))]
    text = next((text for text in states if text is not None), "it answers in a moment")
    return _hold(view, Reason.BUILDING, f"{view.memory.candidate} waits for its fresh baseline: {text}")


def _not_started(cell: CellView) -> str | None:
    if cell.seen is None:
        return "to be handed to Serve"
    if not cell.seen.deployments:
        return f"Serve builds it{': ' + cell.seen.message if cell.seen.message else ''}"
    starting = sum(deployment.count(ReplicaState.STARTING) for deployment in cell.seen.deployments)
    serving = all(cell.serving(deployment.name) for deployment in cell.seen.deployments)
    return None if serving else f"{starting} replica(s) starting"


def _step(view: ServiceView, candidate: str) -> Hold:
    at_gate = hold_at_gate(view)
    if at_gate is not None:
        return at_gate
    silent = silent_metric(view)
    if silent:
        return _hold(view, Reason.METRICS_UNREACHABLE, f"waits where it is: {silent}; promote goes on one step")
    standing = stands(view)
    if standing is not None:
        return standing
    rollout, steps = view.memory.rollout, view.spec.rollout.steps
    weight = view.weights.get(candidate, 0)
    goal = goal_weight(view)
    step = steps[rollout.step] if rollout is not None and rollout.step < len(steps) else None
    direct = view.memory.stable is None or (rollout is not None and rollout.is_fast)
    # More than the step asks for where the stable revision has no replica: one replica and no surge, or after a loss.
    reached_at = rollout.reached_at if rollout is not None and not direct and weight >= goal else None
    if isinstance(step, Pause) and reached_at is not None:
        until = reached_at + step.duration if step.duration is not None else None
        end = f"until {until:%H:%M:%S}" if until else "until promote"
        return _hold(view, Reason.PAUSING, f"pausing at {weight / 100:g}%{_asking(view)} {end}", until)
    if isinstance(step, Analysis) and reached_at is not None:
        return _analysing(view, weight)
    text = f"{candidate} has {weight / 100:g}% on its way to {goal / 100:g}%{_aimed(view)}"
    share = ready_share(view, candidate)
    if weight < goal and share <= weight:
        return _hold(view, Reason.NOT_READY, f"{text}; its ready replicas carry {share / 100:g}%: {_room_text(view)}")
    return _hold(view, Reason.PROGRESSING, text)


def _aimed(view: ServiceView) -> str:
    """Return who wants that, and why, when another package's policy steers the rollout."""
    aimed = aim(view)
    if aimed is None:
        return ""
    return with_message(f", says policy {view.spec.rollout.policy}", aimed.message)


def _analysing(view: ServiceView, weight: int) -> Hold:
    """Say how an analysis step stands; what is still needed comes with the judgement's own words."""
    found, until = judgement(view), analysis_until(view)
    said = found.message if found is not None else NOTHING_COMPARED
    if found is None and weight == FULL:
        said = f"{view.memory.candidate} has all requests, {view.memory.stable} none to compare with; promote goes on"
    if until is not None and view.now < until:
        return _hold(view, Reason.ANALYSING, f"analysing at {weight / 100:g}% until {until:%H:%M:%S}: {said}", until)
    if missing := unmeasured(view):
        return _hold(view, Reason.ANALYSIS_INCONCLUSIVE, f"analysing at {weight / 100:g}%: {missing}")
    wait = waiting_time(view, found.needed) if found is not None else None
    more = f" (about {wait.total_seconds():.0f} s at the present rate)" if wait is not None else ""
    return _hold(view, Reason.ANALYSIS_INCONCLUSIVE, f"analysing at {weight / 100:g}%: {said}{more}")


def _asking(view: ServiceView) -> str:
    """Return which requests see the candidate beside its weight."""
    names = sorted({match.name for match in header_matches(view.memory.rollout, view.spec.rollout.steps)})
    return f" and for requests with a matching {' or '.join(names)}" if names else ""


def _room_text(view: ServiceView) -> str:
    parts = []
    for name in view.deployments:
        budget = view.budget(name)
        stopping = sum(
            seen.count(ReplicaState.STOPPING) for cell in view.cells if (seen := cell.deployment(name)) is not None
        )
        drained = f", {stopping} still stopping" if stopping else ""
        parts.append(f"{name} {view.live(name)} live of at most {budget.ceiling}{drained}")
    return "; ".join(parts)


def _quarantine(view: ServiceView) -> Hold | None:
    stuck = _way_back_failed(view)
    if stuck is not None:
        return stuck
    entry = view.memory.quarantined(view.spec.revision.id)
    if entry is None:
        return None
    serves = f"{view.memory.stable} serves" if view.memory.stable else "nothing serves"
    text = f"{entry.revision} was taken back ({entry.reason}), {serves}; push a fix or retry. {entry.message}"
    return _hold(view, Reason.QUARANTINED, text)


def _going_back(view: ServiceView) -> Hold | None:
    """Say what requests wait for that are on their way back to the stable revision: more than why they go."""
    left = sum(view.weights.get(out.revision, 0) for out in view.memory.outgoing)
    short = shortages(view, view.memory.stable) if left else ()
    if not short:
        return None
    text = f"{left / 100:g}% go back to {view.memory.stable} when it has room: {'; '.join(map(str, short))}"
    return _hold(view, Reason.INSUFFICIENT_RESOURCES, text + _lock(view))


def _lock(view: ServiceView) -> str:
    """Say what helps when those that wait hold what each other need, and none of them can let it go."""
    others = ", ".join(locked_with(view))
    way_out = "room for one replica more, or maxUnavailable in its spec, lets one go on"
    return f". {others} waits for room, too, and none can let go what it holds: {way_out}" if others else ""


def _way_back_failed(view: ServiceView) -> Hold | None:
    """Say that a rollback's target did not start: nothing else is tried by itself, what serves goes on."""
    pin = view.memory.pin
    if pin is None or view.memory.stable is None or pin.against != view.spec.revision.id:
        return None
    entry = view.memory.quarantined(pin.revision)
    if entry is None or pin.revision == view.memory.stable:
        return None
    text = (
        f"the way back from {pin.against} to {entry.revision} failed ({entry.reason}), {view.memory.stable} goes on; "
        f"rollback --to another revision, push a fix or retry. {entry.message}"
    )
    return _hold(view, Reason.ROLLBACK_FAILED, text)


def _baking(view: ServiceView) -> Hold | None:
    baking, until = view.memory.baking, baking_until(view)
    worse = regression(view) if until is not None else None
    if worse is not None and worse.reason is Reason.ANALYSIS_FAILED:
        text = f"{worse.reason}: {worse.message} (autoRollback is off: rollback, push, or wait for the end of bake)"
        return _hold(view, Reason.AUTO_ROLLBACK_DISABLED, text)
    if baking is None or until is None or worse is not None:
        return None
    text = f"{baking.revision} has 100% and is watched until {until:%H:%M:%S}; {baking.back_to} stays warm"
    return _hold(view, Reason.BAKING, text, until)


def _leaving(view: ServiceView) -> Hold | None:
    for outgoing in view.memory.outgoing:
        if view.weights[outgoing.revision] > 0:
            text = f"{outgoing.revision} gives back its {view.weights[outgoing.revision] / 100:g}%"
            return _hold(view, Reason.PROGRESSING, text)
        until = warm_until(view, outgoing)
        if outgoing.cause is OutgoingCause.REPLACED and view.now < until:
            return _hold(view, Reason.SCALE_DOWN_DELAY, f"{outgoing.revision} stays warm until {until:%H:%M:%S}", until)
        return _hold(view, Reason.DRAINING, f"{outgoing.revision} is being taken away")
    left = left_over(view)
    return _hold(view, Reason.DRAINING, f"the baseline {left[0]} is being taken away") if left else None


def _stable(view: ServiceView) -> Hold | None:
    stable = view.memory.stable
    if stable is None:
        return _hold(view, Reason.NOT_READY, "nothing is deployed")
    for cell in view.cells_of(stable):
        if cell.seen is None:
            return _hold(view, Reason.NOT_READY, f"{cell.name} is missing in Serve")
        sick = [seen for seen in cell.seen.deployments if seen.status == "UNHEALTHY"]
        if sick:
            text = " ".join(f"{seen.name}: {seen.message}" for seen in sick)
            return _hold(view, Reason.HEALTH_CHECK_FAILED, text)
    full = shortages(view, stable)
    if full:
        return _hold(view, Reason.INSUFFICIENT_RESOURCES, "; ".join(map(str, full)))
    short = [name for name in view.needed if view.ready(stable, name) < view.budget(name).target]
    if short or view.weights.get(stable, 0) < goal_weights(view).get(stable, FULL):
        counts = (f"{name} {view.ready(stable, name)} of {view.budget(name).target} ready" for name in short)
        return _hold(view, Reason.NOT_READY, ", ".join(counts) or "its traffic is not routed yet")
    return _placed(view)


def _placed(view: ServiceView) -> Hold | None:
    """Say where replicas are not where they are to be, once nothing else is to be said."""
    few = too_few_zones(view)
    if few:
        return _hold(view, Reason.TOO_FEW_ZONES, few)
    moves = unplaced(view, layout_now(view))
    placing = followed(view)
    says = f", says policy {placing.policy}" if placing is not None and (placing.zones or placing.on_demand) else ""
    return _hold(view, Reason.MOVING, f"replicas move{says}: {', '.join(moves)}") if moves else None
