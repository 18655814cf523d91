"""From the schema of a spec file to the values that everything else works with."""

from __future__ import annotations

from specs.desired import (
    Analysis,
    Delegated,
    DesiredService,
    OnInconclusive,
    PackageRef,
    Pause,
    RolloutSettings,
    SetHeaderRoute,
    SetWeight,
    SourceRef,
    Step,
)
from specs.gates import Gate, GateAt, GateKind
from specs.revision import make_revision
from specs.routes import HeaderMatch, Sticky, StickyKind
from specs.service import PRUNE, GateSpec, HeaderMatchSpec, RolloutSpec, Service, StepSpec, StickySpec


def desired_service(model: Service, packages: tuple[PackageRef, ...], source: SourceRef) -> DesiredService:
    """Return what a valid spec wants; `packages` are the folders of the commit that its application names."""
    spec = model.spec
    return DesiredService(
        name=model.metadata.name,
        route=spec.route or f"/{model.metadata.name}",
        suspend=spec.suspend,
        labels=dict(sorted(model.metadata.labels.items())),
        revision=make_revision(spec.application, packages, spec.max_request_duration, spec.loading.stage),
        rollout=_rollout(spec.rollout),
        source=source,
        analysis=spec.analysis.settings() if spec.analysis is not None else None,
        metrics=spec.analysis.metric_settings() if spec.analysis is not None else (),
        group=spec.group or "",
        depends_on=spec.depends_on,
        is_prunable=PRUNE not in model.metadata.annotations,
        analysis_policy=spec.analysis.policy if spec.analysis is not None else "sequential",
        may_be_moved=spec.compaction.allow,
        placement=spec.placement.settings(),
    )


def _rollout(rollout: RolloutSpec) -> RolloutSettings:
    delegated = Delegated(policy=rollout.policy)
    return RolloutSettings(
        steps=tuple(_step(step) for step in rollout.steps) if rollout.policy == "steps" else (delegated,),
        policy=rollout.policy,
        rollback_policy=rollout.rollback_policy,
        max_surge=rollout.max_surge,
        max_unavailable=rollout.max_unavailable,
        min_ready=rollout.min_ready,
        progress_deadline=rollout.progress_deadline,
        scale_down_delay=rollout.scale_down_delay,
        auto_rollback=rollout.auto_rollback,
        rollback_window=rollout.rollback_window,
        bake=rollout.bake,
        on_inconclusive=OnInconclusive(rollout.on_inconclusive),
        sticky=_sticky(rollout.sticky),
        gates=tuple(_gate(gate) for gate in rollout.gates),
    )


def _gate(gate: GateSpec) -> Gate:
    return Gate(
        name=gate.name,
        at=GateAt(gate.at),
        kind=GateKind(gate.kind),
        url=gate.url,
        timeout=gate.timeout,
        retries=gate.retries,
        interval=gate.interval,
    )


def _sticky(sticky: StickySpec | None) -> Sticky | None:
    if sticky is None:
        return None
    if sticky.cookie is not None:
        return Sticky(kind=StickyKind.COOKIE, name=sticky.cookie)
    return Sticky(kind=StickyKind.HEADER, name=(sticky.header or "").lower())


def _header_match(match: HeaderMatchSpec) -> HeaderMatch:
    name, wanted = match.header_name.lower(), match.header_value
    if wanted.exact is not None:
        return HeaderMatch(name=name, value=wanted.exact)
    return HeaderMatch(name=name, value=wanted.prefix or "", is_prefix=True)


def _step(step: StepSpec) -> Step:
    if step.set_header_route is not None:
        route = step.set_header_route
        return SetHeaderRoute(name=route.name, matches=tuple(map(_header_match, route.match)))
    if step.set_weight is not None:
        return SetWeight(weight=step.set_weight)
    if step.analysis is not None:
        return Analysis(at_least=step.analysis.duration, min_requests=step.analysis.min_requests)
    return Pause(duration=step.pause.duration if step.pause is not None else None)
