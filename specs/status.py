"""What people and scripts see of a service: the JSON of the HTTP API, field for field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from specs.analysis import Outcome, Verdict
from specs.reasons import Reason
from specs.staging import StagingState


class Sync(StrEnum):
    """Whether the cluster runs what Git wants."""

    SYNCED = "Synced"
    OUT_OF_SYNC = "OutOfSync"
    UNKNOWN = "Unknown"


class Health(StrEnum):
    """How the service is doing."""

    HEALTHY = "Healthy"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    DEGRADED = "Degraded"
    MISSING = "Missing"
    SUSPENDED = "Suspended"
    UNKNOWN = "Unknown"


class Phase(StrEnum):
    """What Heliostat is doing about it."""

    STEADY = "Steady"
    DEPLOYING = "Deploying"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    ROLLING_BACK = "RollingBack"
    BLOCKED = "Blocked"
    SUSPENDED = "Suspended"


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """The current step of a rollout; `index` counts from 0, `text` is its spec form."""

    index: int
    count: int
    text: str
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """Replica counts, summed over deployments and revisions. `peak` is of the current or last rollout."""

    target: int = 0
    live: int = 0
    ready: int = 0
    peak: int = 0
    serve_surplus: int = 0


@dataclass(frozen=True, kw_only=True)
class DeploymentStatus:
    """One deployment of a cell."""

    name: str
    target: int
    ready: int


@dataclass(frozen=True, kw_only=True)
class CellState:
    """One cell; `weight` is in percent of the service's requests."""

    name: str
    revision: str
    zone: str | None
    market: str | None
    weight: float
    status: str
    deployments: tuple[DeploymentStatus, ...] = ()
    baseline: bool = False
    """It was started together with the candidate, for the candidate to be compared with."""


@dataclass(frozen=True, kw_only=True)
class ZoneStatus:
    """One zone of a service that is spread. `message` says why it has no replica, "" when it has some."""

    zone: str
    state: str
    ready: int
    weight: float
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class CrossingStatus:
    """Which part of the last minute's requests left the gateway's own `zone`, in percent."""

    zone: str
    percent: float


@dataclass(frozen=True, kw_only=True)
class MarketStatus:
    """One market of a service that is divided over markets: replicas that answer, and that are to be there.

    `message` says why fewer are there than the spec asks for, "" when it is as asked for.
    """

    market: str
    ready: int
    wanted: int
    weight: float
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class PlacingStatus:
    """What another package's placement policy wishes and is gone by, and since when (None: nothing yet).

    `zones` are weights, 1 where one is not named; `on_demand` is a percentage. `message` is the policy's, `note` says
    what is not followed, or not yet, and why; "" when all is.
    """

    policy: str
    zones: Mapping[str, int] = field(default_factory=dict)
    on_demand: int = 0
    since: datetime | None = None
    message: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class TrafficStatus:
    """Requests of one revision; quantiles in seconds."""

    requests: int = 0
    errors: int = 0
    aborted: int = 0
    unrouted: int = 0
    p50: float | None = None
    p99: float | None = None


@dataclass(frozen=True, kw_only=True)
class AnalysisStatus:
    """What the candidate's requests say of it beside those of the stable revision, measure by measure.

    `since` is when the present window of the comparison began; what ended before it counts, too. `needed` are the
    requests that are still missing for a verdict, as far as can be told.
    """

    outcome: Outcome
    message: str
    since: datetime
    needed: int = 0
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StagingStatus:
    """The weights of the candidate (or of the last rollout's revision) on their way to nodes; nothing waits for it.

    `done` of `size` bytes are there, of those that are known to be wanted; `ended` of `nodes` nodes have ended.
    """

    revision: str
    uris: tuple[str, ...]
    state: StagingState
    done: int = 0
    size: int = 0
    nodes: int = 0
    ended: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A Kubernetes-style condition; `status` is True, False or Unknown."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: datetime


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """One service. Serialised with camelCase keys; `weights` are percent per revision."""

    name: str
    route: str
    sync: Sync
    health: Health
    phase: Phase
    commit: str
    stable: str | None
    candidate: str | None
    quarantined: tuple[str, ...]
    step: StepStatus | None
    weights: Mapping[str, float]
    replicas: ReplicaStatus
    cells: tuple[CellState, ...]
    traffic: Mapping[str, TrafficStatus]
    reason: Reason
    message: str
    conditions: tuple[Condition, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    """The revision that Git (or an operator's rollback) wants."""
    analysis: AnalysisStatus | None = None
    """None when nothing is analysed now."""
    zones: tuple[ZoneStatus, ...] = ()
    """Of a service that is spread over zones; replicas are summed over its deployments and revisions."""
    markets: tuple[MarketStatus, ...] = ()
    """Of a service that is divided over spot nodes and those that stay, summed in the same way."""
    crossing: CrossingStatus | None = None
    """None when the gateway has no zone of its own, and without requests."""
    placing: PlacingStatus | None = None
    """None when no policy of another package says where replicas are to be."""
    staging: StagingStatus | None = None
    """None when no weights are, or were, staged for the candidate or the stable revision."""


@dataclass(frozen=True, kw_only=True)
class ClusterStatus:
    """The whole of `GET /api/v1/status`."""

    cluster: str
    commit: str | None
    observed_at: datetime | None
    complete: bool
    leader: bool
    problem: str
    """What is wrong with the daemon's view (Ray, Git or gateway unreachable, file errors); "" when fine."""
    services: tuple[ServiceStatus, ...]
    errors: tuple[str, ...] = ()
    """`file:line:column: message` of each problem in the commit's spec files."""
    git_age_seconds: float | None = None
