"""What was seen of Ray and of the gateway at one moment. Unknown is not empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property

from specs.evidence import Evidence
from specs.outward import Outward
from specs.placement import ANYWHERE, ZONE_LABEL, Site
from specs.preemption import Preemption
from specs.selectors import matches
from specs.snapshot import Snapshot


class CellStatus(StrEnum):
    """Serve's own application status."""

    NOT_STARTED = "NOT_STARTED"
    DEPLOYING = "DEPLOYING"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DELETING = "DELETING"


class ReplicaState(StrEnum):
    """Serve's replica states, those that Heliostat does not tell apart folded together."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"


@dataclass(frozen=True, kw_only=True, order=True)
class Endpoint:
    """Where one ingress replica (or, without direct ingress, one Serve proxy) takes HTTP requests."""

    ip: str
    port: int
    replica: str
    node: str = ""
    zone: str = ""
    room: int = 0
    """How many requests its replica is to have at once, as Serve is told; 0: not known."""
    is_leaving: bool = False
    """Its node is about to be taken away: nothing new is sent there."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One replica as Serve reports it; a starting one has no node yet ("")."""

    id: str
    state: ReplicaState
    node: str = ""
    is_migrating: bool = False
    """It answers, and its node is being drained."""

    @property
    def is_homeless(self) -> bool:
        """Return whether it waits for a node."""
        return self.state is ReplicaState.STARTING and not self.node


@dataclass(frozen=True, kw_only=True)
class DeploymentSeen:
    """One deployment of a cell. `target` is Serve's current target count."""

    name: str
    status: str
    message: str
    target: int
    replicas: tuple[Replica, ...]
    is_ingress: bool = False
    is_autoscaled: bool = False
    needs: Mapping[str, float] = field(default_factory=dict)
    """Resources of one replica, by Ray's names."""
    selector: Mapping[str, str] = field(default_factory=dict)
    """Labels of the nodes on which a replica may run, as Ray writes selectors."""
    per_node: int | None = None
    """Its `max_replicas_per_node`."""
    is_scattered: bool = False
    """A replica may be on several nodes at once (placement groups that spread, gangs), or wants labels per bundle."""
    is_unplaced: bool = False
    """Serve itself says that a replica has waited for a node for a while."""

    def count(self, *states: ReplicaState) -> int:
        """Return how many replicas are in one of `states`."""
        return sum(1 for replica in self.replicas if replica.state in states)

    @property
    def live(self) -> int:
        """Return starting + running + stopping: a stopping replica still holds its resources."""
        return len(self.replicas)


@dataclass(frozen=True, kw_only=True)
class CellSeen:
    """One Serve application, ours or not.

    `deployments` is empty while Serve builds the application and after a failed build: that never
    means that its old replicas are gone. `config` is the canonical JSON of `deployed_app_config`
    (None for imperative applications); `endpoints` are real replicas only, never proxies.
    """

    name: str
    status: CellStatus
    message: str
    route_prefix: str | None
    is_declarative: bool
    config: str | None
    deployments: tuple[DeploymentSeen, ...]
    endpoints: tuple[Endpoint, ...] = ()
    last_deployed_at: datetime | None = None

    @property
    def is_building(self) -> bool:
        """Return whether a PUT now would cut a build in progress."""
        return self.status is CellStatus.DEPLOYING and not self.deployments

    def deployment(self, name: str) -> DeploymentSeen | None:
        """Return the deployment called `name`, or None."""
        return next((deployment for deployment in self.deployments if deployment.name == name), None)


class NodeState(StrEnum):
    """What there is to say of a node, the worst first."""

    DEAD = "dead"
    PREEMPTED = "preempted"
    DRAINING = "draining"
    ALIVE = "alive"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One Ray node. `resources` are totals by Ray's names (CPU, GPU, memory in bytes...)."""

    id: str
    ip: str
    is_alive: bool
    is_head: bool
    is_draining: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    preemption: Preemption | None = None
    """The notice that it is about to be taken away, if there is one; it drains then."""

    @property
    def zone(self) -> str | None:
        """Return the availability zone from Ray's standard label."""
        return self.labels.get(ZONE_LABEL)

    @property
    def state(self) -> NodeState:
        """Return what there is to say of it; one that is about to be taken away drains, too."""
        if not self.is_alive:
            return NodeState.DEAD
        if self.preemption is not None:
            return NodeState.PREEMPTED
        return NodeState.DRAINING if self.is_draining else NodeState.ALIVE

    @property
    def takes_replicas(self) -> bool:
        """Return whether new replicas may start here: a head is mostly there for itself."""
        serves = not self.is_head or self.resources.get("CPU", 0.0) > 0
        return self.is_alive and not self.is_draining and serves


@dataclass(frozen=True, kw_only=True)
class LaneSeen:
    """What the gateway knows of one cell. `up` are replicas, or Serve's proxies, that pass the gateway's own checks."""

    cell: str
    weight: int
    """Basis points of the service's requests, as routed now."""
    up: frozenset[str] = frozenset()
    in_flight: int = 0


@dataclass(frozen=True, kw_only=True)
class TrafficSeen:
    """Counters of one cell since its first lease, monotonic over gateway and daemon restarts where possible.

    `errors` are 5xx answers of a replica and requests without an answer; `aborted` are requests the
    client gave up; `unrouted` are the gateway's own 503s. `p50` and `p99` are times to response headers
    over the last minute, None without requests.
    """

    cell: str
    requests: int = 0
    errors: int = 0
    aborted: int = 0
    unrouted: int = 0
    p50: timedelta | None = None
    p99: timedelta | None = None
    evidence: Evidence = field(default_factory=Evidence)
    """The same for comparisons, requests that have not ended left out."""


@dataclass(frozen=True, kw_only=True)
class GatewaySeen(Snapshot):
    """The gateway's view. `is_direct` is False when traffic goes through Serve's own proxies."""

    is_direct: bool
    lanes: tuple[LaneSeen, ...]
    traffic: tuple[TrafficSeen, ...] = ()
    reloads: int = 0
    zone: str | None = None
    """The gateway's own, which it prefers."""
    cross_zone: Mapping[str, float] = field(default_factory=dict)
    """By service, which part of the last minute's requests left that zone; services without requests are out."""
    drained: frozenset[str] = frozenset()
    """Cells that have lost their lane since their last request ended, or had the time that one may take."""

    def lane(self, cell: str) -> LaneSeen | None:
        """Return the lane leased to `cell`, or None."""
        return self._lanes.get(cell)

    def counted(self, cell: str) -> TrafficSeen | None:
        """Return what was counted of `cell`, or None."""
        return self._traffic.get(cell)

    # Every service of a turn asks: looking through all of them each time would cost its square.
    @cached_property
    def _lanes(self) -> Mapping[str, LaneSeen]:
        return {lane.cell: lane for lane in reversed(self.lanes)}

    @cached_property
    def _traffic(self) -> Mapping[str, TrafficSeen]:
        return {entry.cell: entry for entry in self.traffic}


@dataclass(frozen=True, kw_only=True)
class Observed(Snapshot):
    """One observation. With `complete=False` nothing is deleted and no weight is raised."""

    at: datetime
    complete: bool
    problem: str = ""
    """Why the observation is not complete, in words for a person; "" when it is."""
    cells: tuple[CellSeen, ...] = ()
    nodes: tuple[Node, ...] = ()
    gateway: GatewaySeen | None = None
    """None when the gateway could not be asked."""
    serve_running: bool = True
    """False when the cluster is up but Serve has never been started on it."""
    building_since: Mapping[str, datetime] = field(default_factory=dict)
    """When each build in progress, ours or not, was first seen: by our clock, for Ray's may be another."""
    own_counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Counts per application and deployment that Serve took from us since the last complete observation."""
    own_entries: Mapping[str, str] = field(default_factory=dict)
    """Entries per application that Serve took from us since then: what differs from them now, others wrote."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Entries, by their text, that Serve refused each by itself a while ago, and why."""
    outward: Outward = field(default_factory=Outward)
    """What gates and the metrics server were asked, and answered."""

    def cell(self, name: str) -> CellSeen | None:
        """Return the cell called `name`, or None."""
        return self._cells.get(name)

    def cells_called(self, service: str) -> tuple[CellSeen, ...]:
        """Return the applications whose names begin as those of a service's cells do, whoever made them."""
        return self._called.get(service, ())

    @cached_property
    def is_full(self) -> bool:
        """Return whether Serve says of any replica that it has waited for a node for a while."""
        return any(seen.is_unplaced for cell in self.cells for seen in cell.deployments)

    @cached_property
    def _cells(self) -> Mapping[str, CellSeen]:
        return {cell.name: cell for cell in reversed(self.cells)}

    @cached_property
    def _called(self) -> Mapping[str, tuple[CellSeen, ...]]:
        found: dict[str, tuple[CellSeen, ...]] = {}
        for cell in self.cells:
            service, dot, _ = cell.name.partition(".")
            if dot:
                found[service] = (*found.get(service, ()), cell)
        return found

    def takes_replicas(self, site: Site) -> bool:
        """Return whether some node takes new replicas at a site; anywhere, Ray may know of more than is seen."""
        if site == ANYWHERE:
            return True
        return any(node.takes_replicas and matches(node.labels, site.selector) for node in self.nodes)
