"""Serve's own report, `GET /api/serve/applications/`, read into our words.

Only the fields that Heliostat uses are named; Ray may add others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.errors import Retry
from reconciler.ports import ServeSeen
from specs.canonical import canonical_json
from specs.observed import CellSeen, CellStatus, DeploymentSeen, Endpoint, Replica, ReplicaState
from specs.serve_document import deployed_form

REPLICA_PREFIX = "SERVE_REPLICA::"
"""Targets named otherwise are Serve's proxies or HAProxies: never replicas."""

DEFAULT_PROXY_PORT = 8000

_UNPLACED = re.compile(r"have taken more than \d+s to be scheduled")
"""Serve's words for a replica that has no node yet, as opposed to one that has and does not get ready."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

MIGRATING = "PENDING_MIGRATION"
"""Serve's word for a replica on a node that is being drained: Ray's list of nodes does not tell of that."""

REPLICA_STATES = {
    "STARTING": ReplicaState.STARTING,
    # Being reconfigured: Serve sends it nothing meanwhile.
    "UPDATING": ReplicaState.STARTING,
    "RUNNING": ReplicaState.RUNNING,
    # Its node drains and a replacement starts; it serves until that is there.
    MIGRATING: ReplicaState.RUNNING,
    # Serve's controller restarted and has not asked it yet. It serves on; to take it for lost would empty the
    # routes of the whole cluster each time that the controller restarts.
    "RECOVERING": ReplicaState.RUNNING,
    "STOPPING": ReplicaState.STOPPING,
}
"""Serve's states folded. STOPPED holds nothing any more and is left out."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ReplicaDetails(_Part):
    """One replica."""

    replica_id: str
    state: str
    node_id: str | None = None


class DeploymentDetails(_Part):
    """One deployment of an application."""

    name: str
    status: str
    message: str = ""
    deployment_config: dict[str, Any] = Field(default_factory=dict)
    target_num_replicas: int
    replicas: list[ReplicaDetails] = Field(default_factory=list)


class Topology(_Part):
    """Which deployment is the ingress."""

    ingress_deployment: str | None = None


class ApplicationDetails(_Part):
    """One application."""

    name: str
    route_prefix: str | None = None
    status: str
    message: str = ""
    last_deployed_time_s: float = 0.0
    deployed_app_config: dict[str, Any] | None = None
    source: str = "unknown"
    deployments: dict[str, DeploymentDetails]
    deployment_topology: Topology | None = None

    @property
    def is_declarative(self) -> bool:
        """Return whether a PUT would remove it by not naming it."""
        return self.source == "declarative"

    @property
    def is_leaving(self) -> bool:
        """Return whether Serve deletes it already."""
        return self.status == CellStatus.DELETING.value

    @property
    def is_building(self) -> bool:
        """Return whether a PUT now would cut its build."""
        return self.status in (CellStatus.DEPLOYING.value, CellStatus.NOT_STARTED.value) and not self.deployments


class Target(_Part):
    """One address to send requests to."""

    ip: str
    port: int
    name: str


class TargetGroup(_Part):
    """The addresses of one application, or of the proxies when it has no running replica."""

    targets: list[Target] = Field(default_factory=list)
    protocol: str
    app_name: str = ""
    ingress_deployment_name: str = ""


class ProxyDetails(_Part):
    """One of Serve's own HTTP proxies."""

    node_ip: str | None = None
    actor_name: str | None = None
    status: str = ""


class ServeDetails(_Part):
    """The whole report. What Ray always sends is required: half a report must not read as an empty cluster."""

    controller_info: dict[str, Any]
    proxy_location: str | None = None
    http_options: dict[str, Any] | None = None
    grpc_options: dict[str, Any] | None = None
    proxies: dict[str, ProxyDetails] | None = None
    applications: dict[str, ApplicationDetails]
    target_capacity: float | None = None
    target_groups: list[TargetGroup] = Field(default_factory=list)

    @property
    def is_running(self) -> bool:
        """Return whether Serve was ever started on this cluster."""
        return bool(self.controller_info)


def parse_details(document: Any) -> ServeDetails:
    """Read Serve's answer. Raises Retry when it is incomplete or of an unknown form."""
    try:
        return ServeDetails.model_validate(document)
    except ValidationError as error:
        # Values stay out of the message: `env_vars` are among them.
        where = "; ".join(".".join(str(step) for step in problem["loc"]) for problem in error.errors()[:3])
        raise Retry(f"Ray Serve's report of its applications cannot be read (at {where}).") from None


def to_seen(details: ServeDetails, zones: Mapping[str, str]) -> ServeSeen:
    """Say it in our words. `zones` are known zones by node id."""
    endpoints = _endpoints(details, zones)
    cells = tuple(
        _to_cell(application, endpoints.get(name, ())) for name, application in sorted(details.applications.items())
    )
    return ServeSeen(running=details.is_running, cells=cells, proxies=_proxies(details, zones))


def _to_cell(application: ApplicationDetails, endpoints: tuple[Endpoint, ...]) -> CellSeen:
    config = application.deployed_app_config
    ingress = application.deployment_topology.ingress_deployment if application.deployment_topology else None
    return CellSeen(
        name=application.name,
        status=_status(application.status),
        message=_plain(application.message),
        route_prefix=application.route_prefix,
        is_declarative=application.is_declarative,
        config=None if config is None else canonical_json(deployed_form(config)),
        deployments=tuple(
            _to_deployment(deployment, is_ingress=name == ingress)
            for name, deployment in sorted(application.deployments.items())
        ),
        endpoints=endpoints,
        last_deployed_at=_moment(application.last_deployed_time_s),
    )


def _to_deployment(deployment: DeploymentDetails, *, is_ingress: bool) -> DeploymentSeen:
    replicas = (
        Replica(
            id=replica.replica_id,
            state=REPLICA_STATES[replica.state],
            node=replica.node_id or "",
            is_migrating=replica.state == MIGRATING,
        )
        for replica in deployment.replicas
        if replica.state in REPLICA_STATES and not _holds_nothing(replica)
    )
    return DeploymentSeen(
        name=deployment.name,
        status=deployment.status,
        message=_plain(deployment.message),
        target=deployment.target_num_replicas,
        replicas=tuple(sorted(replicas, key=lambda replica: replica.id)),
        is_ingress=is_ingress,
        is_autoscaled=deployment.deployment_config.get("autoscaling_config") is not None,
        needs=_needs(deployment.deployment_config),
        selector=(deployment.deployment_config.get("ray_actor_options") or {}).get("label_selector") or {},
        per_node=deployment.deployment_config.get("max_replicas_per_node"),
        is_scattered=_is_scattered(deployment.deployment_config),
        is_unplaced=_UNPLACED.search(deployment.message) is not None,
    )


def _is_scattered(config: Mapping[str, Any]) -> bool:
    """Return whether a replica may be on several nodes. `PACK` may spill over, too, but asks for one node first."""
    spreads = str(config.get("placement_group_strategy") or "").endswith("SPREAD")
    is_labelled = bool(config.get("placement_group_bundle_label_selector"))
    has_group = bool(config.get("placement_group_bundles"))
    return bool(config.get("gang_scheduling_config")) or (has_group and (spreads or is_labelled))


def _needs(config: Mapping[str, Any]) -> Mapping[str, float]:
    """Return what one replica takes. A placement group's bundles are added up: by default they share a node."""
    bundles = config.get("placement_group_bundles")
    if bundles:
        total: Counter[str] = Counter()
        for bundle in bundles:
            total.update({name: float(amount) for name, amount in bundle.items()})
        return {name: amount for name, amount in sorted(total.items()) if amount}
    options = config.get("ray_actor_options") or {}
    cpus = options.get("num_cpus")
    needs = {
        "CPU": 1.0 if cpus is None else cpus,
        "GPU": options.get("num_gpus") or 0.0,
        "memory": options.get("memory") or 0.0,
        **(options.get("resources") or {}),
    }
    return {name: float(amount) for name, amount in sorted(needs.items()) if amount}


def _holds_nothing(replica: ReplicaDetails) -> bool:
    """Return whether it is a replica that never got a node and is being stopped.

    Serve asks such a replica to shut down gracefully and lists it until the whole grace period (Heliostat's
    `maxRequestDuration`) is over. It holds no resources; to count it would block a roll-back for as long.
    """
    return replica.state == "STOPPING" and not replica.node_id


def _endpoints(details: ServeDetails, zones: Mapping[str, str]) -> dict[str, tuple[Endpoint, ...]]:
    """Return the HTTP addresses of each application's ingress replicas."""
    found: dict[str, tuple[Endpoint, ...]] = {}
    for group in details.target_groups:
        application = details.applications.get(group.app_name)
        if group.protocol != "HTTP" or application is None:
            continue
        ingress = application.deployments.get(group.ingress_deployment_name)
        room = _room(ingress.deployment_config) if ingress else 0
        nodes = {
            replica.replica_id: replica.node_id or ""
            for deployment in application.deployments.values()
            for replica in deployment.replicas
        }
        found[group.app_name] = tuple(
            sorted(
                Endpoint(
                    ip=target.ip, port=target.port, replica=replica, node=node, zone=zones.get(node, ""), room=room
                )
                for target in group.targets
                if (replica := _replica_id(target.name)) is not None
                for node in (nodes.get(replica, ""),)
            )
        )
    return found


def _room(config: Mapping[str, Any]) -> int:
    """Return how many requests one replica is to have at once.

    Of an autoscaled deployment that is what Serve aims at: more of them make it add replicas.
    """
    most = float(config.get("max_ongoing_requests") or 0)
    aimed = (config.get("autoscaling_config") or {}).get("target_ongoing_requests")
    return int(most if aimed is None else max(1.0, min(most, float(aimed))))


def _replica_id(target_name: str) -> str | None:
    """Return the id in `SERVE_REPLICA::APP#DEPLOYMENT#ID`; None for a proxy."""
    return target_name.rpartition("#")[2] if target_name.startswith(REPLICA_PREFIX) else None


def _proxies(details: ServeDetails, zones: Mapping[str, str]) -> tuple[Endpoint, ...]:
    port = (details.http_options or {}).get("port", DEFAULT_PROXY_PORT)
    return tuple(
        sorted(
            Endpoint(ip=proxy.node_ip, port=port, replica=proxy.actor_name or "", node=node, zone=zones.get(node, ""))
            for node, proxy in (details.proxies or {}).items()
            if proxy.status == "HEALTHY" and proxy.node_ip
        )
    )


def _status(name: str) -> CellStatus:
    try:
        return CellStatus(name)
    except ValueError:
        raise Retry(f"Ray Serve reports an application status that Heliostat does not know: {name}.") from None


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _plain(message: str) -> str:
    """Return Ray's words without the terminal colours that it puts into tracebacks."""
    return _COLOURS.sub("", message)
