"""From a Plan to a Status: summarised once, from the state, never on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from policies.bake import judgement as baked
from policies.layout import why_not_preferred, why_unused
from policies.recall import recalled
from policies.registry import unknown_policies
from policies.rollout import layout_now
from policies.verdicts import judgement
from policies.view import ServiceView, view_of
from reconciler.planning.drift import standing
from reconciler.planning.plan import Plan
from reconciler.planning.report_placing import placing_status
from reconciler.planning.report_staging import staging_status
from specs.decisions import Hold
from specs.desired import Analysis, Delegated, Pause, SetHeaderRoute, SetWeight, Step
from specs.memory import BASELINE, Memory, OutgoingCause
from specs.observed import GatewaySeen, ReplicaState
from specs.placement import Market, SiteState
from specs.reasons import Reason
from specs.routes import FULL
from specs.status import (
    AnalysisStatus,
    CellState,
    ClusterStatus,
    Condition,
    CrossingStatus,
    DeploymentStatus,
    Health,
    MarketStatus,
    Phase,
    ReplicaStatus,
    ServiceStatus,
    StepStatus,
    Sync,
    TrafficStatus,
    ZoneStatus,
)

BLIND = frozenset({Reason.RAY_UNREACHABLE, Reason.GATEWAY_UNREACHABLE})

HELD = frozenset(
    {
        Reason.DEPENDENCY_NOT_READY,
        Reason.OUTSIDE_WINDOW,
        Reason.SERVICES_MOVING,
        Reason.INSUFFICIENT_RESOURCES,
        Reason.POLICY_UNKNOWN,
        Reason.TOO_FEW_ZONES,
    }
)
"""What else may keep a rollout from starting or going on: others, the hour, or full nodes."""

BLIND_TO = ("Ready", "Synced", "Drifted")
"""Conditions that nobody knows while not all is seen."""

BLOCKING = frozenset(
    {
        Reason.AUTO_ROLLBACK_DISABLED,
        Reason.PACKAGE_FAILED,
        Reason.GATE_REFUSED,
        Reason.GATE_UNANSWERED,
        Reason.METRICS_UNREACHABLE,
        Reason.POLICY_FAILED,
    }
)
"""What a rollout waits for somebody to do something about."""


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What the report says besides the plan: who we are, and what went wrong with the effects.

    `problems` are per service (or "" for all): why an effect could not be applied.
    """

    cluster: str
    is_leader: bool
    read_at: datetime | None = None
    problems: Mapping[str, tuple[Reason, str]]


def report(plan: Plan, memory: Memory, about: Circumstances, last: ClusterStatus | None) -> ClusterStatus:
    """Return the status after a tick.

    `last` keeps the transition times of conditions that did not change, and when all was last seen.
    """
    world = plan.after if memory is plan.memory else replace(plan.world, memory=memory)
    before = {service.name: service for service in last.services} if last else {}
    services = tuple(
        _service(
            view_of(world, name), _hold(plan, name, about), before.get(name), "; ".join(standing(plan.world, name))
        )
        for name in sorted(memory.services)
    )
    desired = world.desired
    refused = [note.message for note in world.notes if note.is_refused]
    problems = [
        world.observed.problem,
        world.desired_problem,
        *refused,
        *(text for _, text in about.problems.values()),
    ]
    return ClusterStatus(
        cluster=about.cluster,
        commit=str(desired.commit) if desired else None,
        observed_at=world.observed.at if world.observed.complete else (last.observed_at if last else None),
        complete=world.observed.complete,
        leader=about.is_leader,
        problem="; ".join(dict.fromkeys(problem for problem in problems if problem)),
        services=services,
        errors=tuple(str(error) for error in desired.errors) if desired else (),
        git_age_seconds=(world.now - about.read_at).total_seconds() if about.read_at else None,
    )


def _hold(plan: Plan, name: str, about: Circumstances) -> Hold:
    """Return why a service stands where it stands: a failed effect first, then the plan's own reason."""
    problem = about.problems.get(name) or about.problems.get("")
    if problem is not None:
        return Hold(service=name, reason=problem[0], message=problem[1])
    holds = [decision for decision in plan.decisions.get(name, ()) if isinstance(decision, Hold)]
    return holds[0] if holds else Hold(service=name, reason=Reason.PROGRESSING, message="moving")


@dataclass(frozen=True, kw_only=True)
class _Summary:
    """Where a service stands in a few words, and why; `drift` is what others changed."""

    sync: Sync
    health: Health
    phase: Phase
    hold: Hold
    drift: str


def _service(view: ServiceView, hold: Hold, last: ServiceStatus | None, drift: str) -> ServiceStatus:
    memory, gateway = view.memory, view.observed.gateway
    summary = _Summary(sync=_sync(view), health=_health(view, hold), phase=_phase(view, hold), hold=hold, drift=drift)
    return ServiceStatus(
        name=view.name,
        route=view.spec.route,
        sync=summary.sync,
        health=summary.health,
        phase=summary.phase,
        commit=_commit(view),
        stable=memory.stable,
        candidate=memory.candidate,
        quarantined=tuple(entry.revision for entry in memory.quarantine),
        step=_step(view, hold),
        weights=_weights(view),
        replicas=_replicas(view),
        cells=_cells(view),
        traffic=_traffic(view, gateway),
        conditions=_conditions(view, summary, last),
        reason=hold.reason,
        message=hold.message,
        labels=view.spec.labels,
        target=view.wanted.id,
        analysis=_analysis(view),
        zones=_zones(view),
        markets=_markets(view),
        crossing=_crossing(view.name, gateway),
        placing=placing_status(view),
        staging=staging_status(view),
    )


def _crossing(service: str, gateway: GatewaySeen | None) -> CrossingStatus | None:
    if gateway is None or gateway.zone is None or service not in gateway.cross_zone:
        return None
    return CrossingStatus(zone=gateway.zone, percent=gateway.cross_zone[service] * 100)


@recalled
def _weights(view: ServiceView) -> Mapping[str, float]:
    """Return percent per revision; a baseline's share is its revision's."""
    shares: Counter[str] = Counter()
    for line, weight in view.weights.items():
        shares[line.partition(BASELINE)[0]] += weight
    return {revision: weight * 100 / FULL for revision, weight in shares.items() if weight}


def _commit(view: ServiceView) -> str:
    desired = view.world.desired
    return str(desired.commit) if desired else ""


@recalled
def _sync(view: ServiceView) -> Sync:
    memory = view.memory
    if not view.is_complete:
        return Sync.UNKNOWN
    is_wanted = memory.stable == view.wanted.id and memory.stable == view.spec.revision.id
    is_settled = memory.candidate is None and not memory.is_removed and view.weights.get(memory.stable or "") == FULL
    full = all(view.ready(memory.stable, name) >= view.budget(name).target for name in view.needed)
    return Sync.SYNCED if is_wanted and is_settled and full else Sync.OUT_OF_SYNC


def _health(view: ServiceView, hold: Hold) -> Health:
    memory = view.memory
    if not view.is_complete:
        return Health.UNKNOWN
    if view.spec.suspend:
        return Health.SUSPENDED
    if memory.candidate is not None:
        paused = hold.reason in (Reason.PAUSING, Reason.PAUSED_BY_OPERATOR)
        return Health.PAUSED if paused else Health.PROGRESSING
    if memory.stable is None:
        return Health.MISSING
    if not view.is_serving(memory.stable):
        return Health.DEGRADED
    if hold.reason in (Reason.HEALTH_CHECK_FAILED, Reason.TOO_FEW_ZONES):
        return Health.DEGRADED
    short = [name for name in view.needed if view.ready(memory.stable, name) < view.budget(name).needed]
    if short:
        return Health.PROGRESSING if all(_is_growing(view, name) for name in short) else Health.DEGRADED
    is_moving = _sync(view) is Sync.OUT_OF_SYNC and memory.quarantined(view.spec.revision.id) is None
    return Health.PROGRESSING if is_moving and hold.reason is Reason.NOT_READY else Health.HEALTHY


def _is_growing(view: ServiceView, deployment: str) -> bool:
    """Return whether what the stable revision lacks is on its way up, as after a change of scale."""
    seen = [cell.deployment(deployment) for cell in view.cells_of(view.memory.stable)]
    return any(found is not None and found.count(ReplicaState.STARTING) > 0 for found in seen)


def _phase(view: ServiceView, hold: Hold) -> Phase:
    memory = view.memory
    if view.spec.suspend:
        return Phase.SUSPENDED
    if memory.candidate is not None:
        return _rollout_phase(view, hold)
    giving_back = [out for out in memory.outgoing if out.cause is not OutgoingCause.REPLACED]
    if any(view.weights.get(out.revision, 0) for out in giving_back):
        return Phase.ROLLING_BACK
    blocked = hold.reason in BLIND | HELD or memory.quarantined(view.spec.revision.id) is not None
    return Phase.BLOCKED if blocked else Phase.STEADY


def _rollout_phase(view: ServiceView, hold: Hold) -> Phase:
    if hold.reason in (Reason.PAUSING, Reason.PAUSED_BY_OPERATOR):
        return Phase.PAUSED
    if hold.reason in BLIND | HELD | BLOCKING:
        return Phase.BLOCKED
    return Phase.DEPLOYING if view.memory.stable is None else Phase.PROGRESSING


def step_text(step: Step) -> str:
    """Return a step's spec form, such as `setWeight 10` or `pause 60s`."""
    match step:
        case SetWeight(weight=weight):
            return f"setWeight {weight}"
        case SetHeaderRoute(name=name, matches=matches):
            return f"setHeaderRoute {', '.join(match.name for match in matches) or f'{name} ends'}"
        case Pause(duration=None):
            return "pause until promote"
        case Pause(duration=timedelta() as duration):
            return f"pause {duration.total_seconds():g}s"
        case Pause():
            return "pause"
        case Analysis(at_least=at_least):
            return f"analysis {at_least.total_seconds():g}s"
        case Delegated(policy=policy):
            return f"policy {policy}"


def _step(view: ServiceView, hold: Hold) -> StepStatus | None:
    rollout, steps = view.memory.rollout, view.spec.rollout.steps
    if rollout is None or view.memory.stable is None or rollout.is_fast:
        return None
    if rollout.step >= len(steps):
        return StepStatus(index=len(steps), count=len(steps), text="setWeight 100")
    until = hold.until if hold.reason is Reason.PAUSING else None
    return StepStatus(index=rollout.step, count=len(steps), text=step_text(steps[rollout.step]), until=until)


@recalled
def _analysis(view: ServiceView) -> AnalysisStatus | None:
    """Say how the candidate stands beside the stable revision, or after 100% how it does beside what that had been."""
    found, baking, comparison = judgement(view), view.memory.baking, view.memory.comparison
    since = comparison.since if comparison is not None else None
    if found is None and baking is not None:
        found, since = baked(view), baking.since
    if found is None or since is None:
        return None
    return AnalysisStatus(
        outcome=found.outcome,
        message=found.message,
        since=since,
        needed=found.needed,
        verdicts=found.verdicts,
    )


@recalled
def _replicas(view: ServiceView) -> ReplicaStatus:
    names = view.deployments
    target = sum(view.budget(name).target for name in view.needed)
    live = sum(view.live(name) for name in names)
    ready = sum(len(cell.serving(name)) for name in names for cell in view.cells)
    over = sum(max(0, view.live(name) - view.budget(name).ceiling) for name in names)
    return ReplicaStatus(target=target, live=live, ready=ready, peak=max(view.memory.peak, live), serve_surplus=over)


@recalled
def _cells(view: ServiceView) -> tuple[CellState, ...]:
    return tuple(
        CellState(
            name=cell.name,
            revision=cell.revision,
            zone=cell.memory.key.zone,
            market=cell.memory.key.market,
            baseline=cell.memory.is_baseline,
            weight=(cell.lane.weight if cell.lane else 0) * 100 / FULL,
            status=cell.seen.status.value if cell.seen else "MISSING",
            deployments=tuple(
                DeploymentStatus(name=name, target=cell.commanded(name), ready=len(cell.serving(name)))
                for name in sorted(cell.deployments)
            ),
        )
        for cell in view.cells
    )


@recalled
def _zones(view: ServiceView) -> tuple[ZoneStatus, ...]:
    if view.spec.placement.zones is None or not view.is_complete:
        return ()
    unused = why_unused(view, layout_now(view))
    # Of the markets of a zone the one that is best off: the zone is used as long as one of them is.
    order = list(SiteState)
    states: dict[str, str] = {}
    for entry in sorted(view.memory.sites, key=lambda entry: order.index(entry.state)):
        states.setdefault(entry.site.zone or "", entry.state.value)
    return tuple(_zone(view, zone, state, unused.get(zone, "")) for zone, state in sorted(states.items()))


def _zone(view: ServiceView, zone: str, state: str, message: str) -> ZoneStatus:
    cells = [cell for cell in view.cells if cell.memory.key.zone == zone]
    weight = sum(cell.lane.weight for cell in cells if cell.lane is not None)
    ready = sum(len(cell.serving(name)) for cell in cells for name in cell.deployments)
    return ZoneStatus(zone=zone, state=state, ready=ready, weight=weight * 100 / FULL, message=message)


@recalled
def _markets(view: ServiceView) -> tuple[MarketStatus, ...]:
    if view.spec.placement.market is None or not view.is_complete:
        return ()
    layout = layout_now(view)
    messages = why_not_preferred(view, layout)
    return tuple(_market(view, market, layout.at(market), messages.get(market, "")) for market in Market)


def _market(view: ServiceView, market: Market, wanted: int, message: str) -> MarketStatus:
    cells = [cell for cell in view.cells if cell.memory.key.market is market]
    weight = sum(cell.lane.weight for cell in cells if cell.lane is not None)
    ready = sum(len(cell.serving(name)) for cell in cells for name in cell.deployments)
    return MarketStatus(market=market, ready=ready, wanted=wanted, weight=weight * 100 / FULL, message=message)


def _traffic(view: ServiceView, gateway: GatewaySeen | None) -> Mapping[str, TrafficStatus]:
    traffic: dict[str, TrafficStatus] = {}
    for cell in view.cells:
        entry = gateway.counted(cell.name) if gateway is not None else None
        if entry is None:
            continue
        sofar = traffic.get(cell.revision, TrafficStatus())
        traffic[cell.revision] = TrafficStatus(
            requests=sofar.requests + entry.requests,
            errors=sofar.errors + entry.errors,
            aborted=sofar.aborted + entry.aborted,
            unrouted=sofar.unrouted + entry.unrouted,
            p50=_worst(sofar.p50, entry.p50),
            p99=_worst(sofar.p99, entry.p99),
        )
    return traffic


def _worst(known: float | None, seen: timedelta | None) -> float | None:
    """Quantiles of several cells cannot be added; the worst of them is what a person wants to see."""
    values = [value for value in (known, seen.total_seconds() if seen else None) if value is not None]
    return max(values) if values else None


def _conditions(view: ServiceView, summary: _Summary, last: ServiceStatus | None) -> tuple[Condition, ...]:
    hold, health, phase = summary.hold, summary.health, summary.phase
    spec_errors = view.world.desired.errors if view.world.desired else ()
    mine = [str(error) for error in spec_errors if error.is_about(view.spec.source.path)]
    refused = [(note.reason.value, note.message) for note in view.world.notes if note.is_refused]
    wrong = [*mine, *unknown_policies(view.spec, view.observed.outward.policies)]
    invalid = Reason.INVALID_SPEC.value if mine else Reason.POLICY_UNKNOWN.value
    rolling_back = phase is Phase.ROLLING_BACK
    quarantine = view.memory.quarantine[-1] if view.memory.quarantine else None
    told, drift = (hold.reason.value, hold.message), summary.drift
    facts = {
        "Ready": (health in (Health.HEALTHY, Health.PAUSED) or view.is_serving(view.memory.stable), *told),
        "Synced": (summary.sync is Sync.SYNCED, *told),
        "Progressing": (view.memory.candidate is not None or rolling_back, *told),
        "Paused": (phase is Phase.PAUSED, *told),
        "RollbackInProgress": (rolling_back, *told),
        "Quarantined": (bool(quarantine), *((quarantine.reason.value, quarantine.message) if quarantine else told)),
        "Drifted": (bool(drift), *((Reason.DRIFTED.value, drift) if drift else told)),
        "Suspended": (view.spec.suspend, *told),
        "CommitTrusted": (not refused, *(refused[0] if refused else told)),
        "SpecValid": (not wrong, *((invalid, "; ".join(wrong)) if wrong else told)),
    }
    known = {condition.type: condition for condition in last.conditions} if last else {}
    blind_to, now = () if view.is_complete else BLIND_TO, view.now
    return tuple(
        _condition(kind, "Unknown" if kind in blind_to else str(is_true), (reason, message), known.get(kind), now)
        for kind, (is_true, reason, message) in facts.items()
    )


def _condition(kind: str, status: str, told: tuple[str, str], last: Condition | None, now: datetime) -> Condition:
    """Return a condition with the time of the last change of `status`: reason and message change without being one."""
    reason, message = told
    since = last.last_transition_time if last is not None and last.status == status else now
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=since)
