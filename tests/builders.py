"""Specs and worlds in few words, for tests of what is decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from policies.view import ServiceView, view_of
from specs.amount import Amount
from specs.analysis import AnalysisSettings, Baseline
from specs.canonical import canonical_json
from specs.cells import CellKey
from specs.desired import (
    Analysis,
    AutoScale,
    ClusterSettings,
    Commit,
    Delegated,
    Desired,
    DesiredDeployment,
    DesiredService,
    FixedScale,
    OnInconclusive,
    Pause,
    Revision,
    RolloutSettings,
    Scale,
    SetHeaderRoute,
    SetWeight,
    SourceRef,
    SpecError,
    Step,
)
from specs.gates import Gate, GateAt, GateKind
from specs.memory import CellMemory, Memory, Outgoing, OutgoingCause, Rollout, ServiceMemory
from specs.metric_readings import Metric
from specs.observed import (
    CellSeen,
    CellStatus,
    DeploymentSeen,
    GatewaySeen,
    LaneSeen,
    Node,
    Observed,
    Replica,
    ReplicaState,
)
from specs.placement import Market, MarketSettings, Placement, ZoneFailure, ZoneSettings
from specs.routes import HeaderMatch
from specs.world import World

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTLED = timedelta(hours=1)
GATEWAY_URL = "http://127.0.0.1:8080"

Sizes = Mapping[str, int | tuple[int, int] | None]
"""Deployment -> count, autoscaling bounds, or None when the spec does not list a count."""


def seconds(amount: float) -> timedelta:
    return timedelta(seconds=amount)


def steps(*texts: int | str) -> tuple[Step, ...]:
    """Return steps: 10 is setWeight 10, "30" a pause of 30 s, "" one until promote, "analysis 60" an analysis.

    "x=1" is a header route, "x=" its end.
    """
    return tuple(_step(text) for text in texts)


def _step(text: int | str) -> Step:
    if isinstance(text, int):
        return SetWeight(weight=text)
    name, is_header, value = text.partition("=")
    if is_header:
        return SetHeaderRoute(name="route", matches=(HeaderMatch(name=name, value=value),) if value else ())
    kind, _, duration = text.partition(" ")
    if kind == "analysis":
        return Analysis(at_least=timedelta(seconds=float(duration)))
    return Pause(duration=timedelta(seconds=float(text)) if text else None)


def amount(text: int | str) -> Amount:
    if isinstance(text, str) and text.endswith("%"):
        return Amount(value=int(text[:-1]), is_percent=True)
    return Amount(value=int(text))


def rollout_settings(**options: Any) -> RolloutSettings:
    """Return settings; names as in specs, durations in seconds."""
    return RolloutSettings(
        steps=(Delegated(policy=options["policy"]),) if "policy" in options else options.get("steps", steps(50)),
        max_surge=amount(options.get("surge", 1)),
        max_unavailable=amount(options.get("unavailable", 0)),
        min_ready=seconds(options.get("min_ready", 0)),
        progress_deadline=seconds(options.get("deadline", 600)),
        scale_down_delay=seconds(options.get("scale_down", 30)),
        auto_rollback=options.get("auto_rollback", True),
        rollback_window=options.get("window", 3),
        bake=seconds(options.get("bake", 0)),
        on_inconclusive=OnInconclusive(options.get("on_inconclusive", "hold")),
        sticky=options.get("sticky"),
        gates=options.get("gates", ()),
        policy=options.get("policy", "steps"),
        rollback_policy=options.get("rollback_policy", "failures"),
    )


def metric(name: str = "errors", **options: Any) -> Metric:
    """Return a metric with values of at most 0.05; durations in seconds."""
    return Metric(
        name=name,
        query=options.get("query", 'rate{service="$service",revision="$revision"}'),
        min=options.get("min"),
        max=options.get("max", 0.05),
        interval=seconds(options.get("interval", 5)),
        failure_limit=options.get("failures", 1),
        consecutive_error_limit=options.get("errors", 2),
    )


def gate(name: str = "calendar", at: str = "beforeStep", **options: Any) -> Gate:
    """Return a gate; durations in seconds."""
    return Gate(
        name=name,
        at=GateAt(at),
        kind=GateKind(options.get("kind", "confirm")),
        url=options.get("url", "https://hooks.example/rollouts"),
        timeout=seconds(options.get("timeout", 4)),
        retries=options.get("retries", 2),
        interval=seconds(options.get("interval", 15)),
    )


def revision(
    version: str,
    sizes: Sizes | None = None,
    *,
    max_request: float = 60,
    args: Mapping[str, Any] | None = None,
    stage: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    runtime_env: Mapping[str, Any] | None = None,
) -> Revision:
    """Return a revision called `version`, whose code has the deployments of `sizes` (Echo first)."""
    sizes = {"Echo": 3} if sizes is None else sizes
    listed = {name: size for name, size in sizes.items() if size is not None}
    code = dict.fromkeys(sizes, 1)
    template = {
        "import_path": "app:build",
        **({"runtime_env": dict(runtime_env)} if runtime_env else {}),
        "args": {"version": version, "deployments": code, "ingress": next(iter(sizes)), **(args or {})},
        "deployments": [
            {
                "name": name,
                "graceful_shutdown_timeout_s": max_request,
                **({"ray_actor_options": dict(options)} if options else {}),
                **({"autoscaling_config": {}} if isinstance(size, tuple) else {}),
            }
            for name, size in sorted(listed.items())
        ],
    }
    return Revision(
        id=version,
        template=canonical_json(template),
        packages=(),
        max_request_duration=seconds(max_request),
        deployments=tuple(DesiredDeployment(name=name, scale=_scale(size)) for name, size in sorted(listed.items())),
        stage=tuple(stage),
    )


def _scale(size: int | tuple[int, int]) -> Scale:
    if isinstance(size, tuple):
        return AutoScale(min_replicas=size[0], max_replicas=size[1])
    return FixedScale(replicas=size)


def service(
    name: str = "chat",
    version: str = "v1",
    sizes: Sizes | int = 3,
    *,
    args: Mapping[str, Any] | None = None,
    max_request: float = 60,
    suspend: bool = False,
    route: str | None = None,
    analysis: Mapping[str, Any] | None = None,
    metrics: tuple[Metric, ...] = (),
    depends_on: Iterable[str] = (),
    group: str = "",
    judge: str = "sequential",
    placement: Placement | None = None,
    stage: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    **rollout: Any,
) -> DesiredService:
    """Return a service of one or more deployments; `rollout` as in `rollout_settings`, `analysis` its settings."""
    sizes = {"Echo": sizes} if isinstance(sizes, int) else sizes
    return DesiredService(
        name=name,
        route=route or f"/{name}",
        suspend=suspend,
        revision=revision(
            version, sizes, max_request=max_request, args=args, stage=stage, options=options, runtime_env=runtime_env
        ),
        rollout=rollout_settings(**rollout),
        source=SourceRef(path=f"{name}.yaml", line=1),
        analysis=_analysis(analysis) if analysis is not None else None,
        metrics=metrics,
        depends_on=tuple(depends_on),
        group=group,
        analysis_policy=judge,
        placement=placement or Placement(),
    )


def zones(
    least: int = 1, *, tolerate: bool = False, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> Placement:
    """Return a placement over the zones that there are."""
    failure = ZoneFailure.TOLERATE if tolerate else ZoneFailure.DEGRADE
    return Placement(zones=ZoneSettings(min=least, include=include, exclude=exclude, zone_failure=failure))


def market(base: int | str = 0, prefer: str = "spot", over: Placement | None = None) -> Placement:
    """Return a placement over markets, beside that of `over`."""
    return replace(over or Placement(), market=MarketSettings(prefer=Market(prefer), base=amount(base)))


def _analysis(options: Mapping[str, Any]) -> AnalysisSettings:
    baseline = Baseline(options.get("baseline", "stable"))
    return AnalysisSettings(**{**options, "baseline": baseline})


def desired(
    *services: DesiredService, errors: Iterable[SpecError] = (), settings: ClusterSettings | None = None
) -> Desired:
    commit = Commit(sha="c0ffee", branch="main", author="Ada", subject="Change", committed_at=NOW)
    return Desired(
        commit=commit, services=tuple(services), errors=tuple(errors), settings=settings or ClusterSettings()
    )


# -- one look at one service -------------------------------------------------------------------------


def cell(
    version: str,
    *,
    ready: int = 0,
    starting: int = 0,
    stopping: int = 0,
    target: int | None = None,
    weight: int | None = 0,
    in_flight: int = 0,
    status: CellStatus = CellStatus.RUNNING,
    deployment: str = "Echo",
    message: str = "",
    name: str = "chat",
    seen: bool = True,
    building: bool = False,
    died: int = 0,
    zone: str | None = None,
    **memory: Any,
) -> tuple[CellMemory, CellSeen | None, LaneSeen | None]:
    """Return one cell with one deployment; `weight` None: it has no lane. `memory` are fields of CellMemory.

    `died` replicas were seen before and are gone.
    """
    key = CellKey(service=name, revision=version, zone=zone)
    target = ready + starting if target is None else target
    states = [ReplicaState.RUNNING] * ready + [ReplicaState.STARTING] * starting + [ReplicaState.STOPPING] * stopping
    replicas = tuple(Replica(id=f"{key.name}-{number}", state=state, node="n1") for number, state in enumerate(states))
    found = DeploymentSeen(
        name=deployment, status="HEALTHY", message=message, target=target, replicas=replicas, is_ingress=True
    )
    remembered: dict[str, Any] = {
        "counts": {deployment: target},
        "config": canonical_json(
            {
                "name": key.name,
                "import_path": "app:build",
                "runtime_env": {"env_vars": {"HELIOSTAT_GATEWAY_URL": GATEWAY_URL}},
                "external_scaler_enabled": True,
            }
        ),
        "created_at": NOW - SETTLED,
        "building_since": NOW - SETTLED,
        "seen": {f"dead-{number}": "n1" for number in range(died)},
    }
    application = CellSeen(
        name=key.name,
        status=CellStatus.DEPLOYING if building else status,
        message=message,
        route_prefix=key.route_prefix,
        is_declarative=True,
        config=remembered["config"],
        deployments=() if building else (found,),
    )
    up = frozenset(replica.id for replica in replicas if replica.state is ReplicaState.RUNNING)
    lane = None if weight is None else LaneSeen(cell=key.name, weight=weight, up=up, in_flight=in_flight)
    return CellMemory(key=key, **{**remembered, **memory}), application if seen else None, lane


def node(name: str = "n1", **fields: Any) -> Node:
    return Node(id=name, ip="127.0.1.1", is_alive=True, is_head=False, is_draining=False, **fields)


def world(
    wanted: DesiredService,
    *cells: tuple[CellMemory, CellSeen | None, LaneSeen | None],
    stable: str | None = None,
    candidate: str | None = None,
    step: int = 0,
    outgoing: Mapping[str, OutgoingCause] | None = None,
    complete: bool = True,
    rollout: Mapping[str, Any] | None = None,
    **memory: Any,
) -> World:
    """Return a world of one service; every replica that is up has been ready for an hour."""
    ready = {replica: NOW - SETTLED for _, _, lane in cells if lane for replica in lane.up}
    going = Rollout(started_at=NOW - SETTLED, progress_at=NOW, step=step)
    known = {version: revision(version) for version in (stable, candidate, *(outgoing or {})) if version}
    known[wanted.revision.id] = wanted.revision
    remembered = ServiceMemory(
        name=wanted.name,
        wanted=wanted,
        stable=stable,
        candidate=candidate,
        rollout=replace(going, **(rollout or {})) if candidate else None,
        outgoing=tuple(
            Outgoing(revision=version, since=NOW - SETTLED, cause=cause) for version, cause in (outgoing or {}).items()
        ),
        cells=tuple(cell for cell, _, _ in cells),
        weights={lane.cell: lane.weight for _, _, lane in cells if lane},
        ready_since=ready,
        revisions=tuple(known.values()),
    )
    observed = Observed(
        at=NOW,
        complete=complete,
        problem="" if complete else "Ray does not answer",
        cells=tuple(seen for _, seen, _ in cells if seen is not None),
        nodes=(node(),),
        gateway=GatewaySeen(is_direct=True, lanes=tuple(lane for _, _, lane in cells if lane)),
    )
    return World(
        now=NOW,
        desired=desired(wanted),
        observed=observed,
        memory=Memory(services={wanted.name: replace(remembered, **memory)}),
    )


def look(*args: Any, **options: Any) -> ServiceView:
    """Return the view of the one service of `world(...)`."""
    made = world(*args, **options)
    return view_of(made, next(iter(made.memory.services)))
