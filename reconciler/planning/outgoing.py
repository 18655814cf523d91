"""What others are to be asked now: derived from Memory, as every effect is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

from policies import metrics, staging
from policies.counsel import asked_again, consultable, consulted, subject
from policies.gates import is_due
from policies.view import ServiceView, view_of
from reconciler.planning.plan import Plan
from specs.canonical import canonical_json
from specs.effects import ConsultPolicy, MeasureMetric, PostQuestion, TendStaging
from specs.gates import GateCall
from specs.memory import Memory, ServiceMemory
from specs.staging import StagingJob, StagingState
from specs.wishes import kind_of

STAGING = "staging"
"""The slot of the one errand that looks after all stagings."""

LOOK_AFTER_STAGING = timedelta(seconds=2)

CODE = ("working_dir", "py_modules", "excludes")
"""Parts of a runtime environment that bring the service's code: staging needs none, and must not import it."""


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


def measurements_due(plan: Plan) -> tuple[MeasureMetric, ...]:
    """Return the metrics of candidates with requests whose interval is over, and that are not being measured."""
    views = (view_of(plan.after, name) for name in sorted(plan.memory.services))
    return tuple(wanted for view in views for wanted in _measurements(view))


def _measurements(view: ServiceView) -> Iterator[MeasureMetric]:
    rollout, under_way = view.memory.rollout, view.observed.outward.under_way
    for metric in view.spec.metrics if metrics.is_measuring(view) else ():
        if rollout is None:
            continue
        slot = metrics.slot_of(view.memory, rollout, metric)
        if slot not in under_way and metrics.is_due(metrics.tally_of(view, metric), metric, view):
            query = metrics.query_of(view.memory, metric)
            yield MeasureMetric(service=view.name, slot=slot, query=query, asked_at=view.now)


def consultations_due(plan: Plan) -> tuple[ConsultPolicy, ...]:
    """Return which policies of other packages are to be asked now, each about all its services at once."""
    world, outward = plan.after, plan.world.observed.outward
    asked: dict[str, dict[str, str]] = {}
    for name in sorted(plan.memory.services):
        view = view_of(world, name)
        for policy in consulted(view):
            asked.setdefault(policy, {})[name] = subject(view, kind_of(policy))
    return tuple(
        ConsultPolicy(policy=policy, services=services, world=world)
        for policy, services in sorted(asked.items())
        if policy not in outward.under_way and any(_is_old(plan, policy, *one) for one in services.items())
    )


def _is_old(plan: Plan, policy: str, service: str, revision: str) -> bool:
    said = plan.world.observed.outward.advice_of(policy, service)
    if said is None or said.revision != revision:
        return True
    return not timedelta(0) <= plan.world.now - said.at < asked_again(kind_of(policy))


def staging_due(plan: Plan) -> tuple[TendStaging, ...]:
    """Return the look after stagings that is due: a rollout has begun or ended, or one is being staged for."""
    world = plan.after
    outward = world.observed.outward
    if STAGING in outward.under_way:
        return ()
    wanted = tuple(job for name in sorted(plan.memory.services) if (job := _staging(view_of(world, name), plan)))
    names = frozenset(job.name for job in wanted)
    seen = [outward.staging(name) for name in sorted(names)]
    running = [look for look in seen if look is None or look.state is StagingState.RUNNING]
    looked_at = max((look.at for look in running if look), default=None)
    is_late = looked_at is None or not timedelta(0) <= world.now - looked_at < LOOK_AFTER_STAGING
    if outward.swept != names or (running and is_late):
        return (TendStaging(jobs=wanted, asked_at=world.now),)
    return ()


def _staging(view: ServiceView, plan: Plan) -> StagingJob | None:
    name, cells = staging.job_of(view.memory), view.cells_of(view.memory.candidate)
    record = view.memory.revision(view.memory.candidate or "")
    if name is None or record is None or staging.is_over(view.memory) or not cells:
        return None
    nodes = staging.suitable_nodes(view)
    if not nodes:
        return None
    with_cpus = [node for node in view.observed.nodes if node.is_alive and node.resources.get("CPU")]
    environment = json.loads(cells[0].memory.config).get("runtime_env") or {}
    kept = {key: value for key, value in environment.items() if key not in CODE}
    return StagingJob(
        name=name,
        service=view.name,
        revision=record.id,
        uris=record.stage,
        nodes=() if len(nodes) == len(with_cpus) else tuple(sorted(node.id for node in nodes)),
        python=plan.stage_python,
        runtime_env=canonical_json(kept),
    )


def errand_slots(memory: Memory) -> frozenset[str]:
    """Return what outcomes of calls to others are still waited for."""
    services = tuple(memory.services.values())
    questions = {call.key for service in services for call in service.gates}
    measured = {
        metrics.slot_of(service, service.rollout, metric)
        for service in services
        if service.rollout is not None
        for metric in service.wanted.metrics
    }
    advised = {advice_slot(policy, service.name) for service in services for policy in consultable(service)}
    staged = {job for service in services if (job := staging.job_of(service)) is not None}
    return frozenset(questions | measured | advised | staged)


def advice_slot(policy: str, service: str) -> str:
    """Return what names the advice of a policy about a service."""
    return f"advice {policy} {service}"
