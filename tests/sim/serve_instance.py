"""A simulated Serve instance, in Ray's own words: documents in, details out, a control loop in virtual time."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from specs.observed import Node
from specs.selectors import matches
from specs.serve_document import deployed_form
from tests.sim.codebook import Behaviour, CodeBook
from tests.sim.fake_nodes import FakeNodes
from tests.sim.serve_model import SimDeployment, SimReplica, Timing

TICK = timedelta(milliseconds=500)
"""The grain of the simulation. Serve's own control loop runs every 100 ms."""

PORTS = range(30000, 31000)
"""Direct ingress's own range."""


class ScaleRefused(Exception):
    """The external scaler call failed, with the status that Ray's dashboard answers."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class PutRefused(Exception):
    """Serve refused a document as a whole, with the status that Ray's dashboard answers."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(kw_only=True, eq=False)
class SimApplication:
    """One application. `built` is the code version that its deployments come from, None while and when it has none."""

    name: str
    config: dict[str, Any]
    source: str = "declarative"
    status: str = "DEPLOYING"
    message: str = ""
    deployed_at: datetime
    built: str | None = None
    build_ends: datetime | None = None
    """When the build in progress ends; it starts only when some node fits it."""
    is_building: bool = False
    is_deleting: bool = False
    deployments: dict[str, SimDeployment] = field(default_factory=dict)
    retired: list[SimDeployment] = field(default_factory=list)
    """Deployments of older code, until their last replicas have stopped."""

    @property
    def external_scaler(self) -> bool:
        """Return whether the scale call is allowed."""
        return bool(self.config.get("external_scaler_enabled", False))

    @property
    def all_deployments(self) -> Iterator[SimDeployment]:
        """Return the deployments of this and of older code."""
        return itertools.chain(self.deployments.values(), self.retired)


@dataclass(kw_only=True)
class ServeInstance:
    """The controller and its applications."""

    nodes: FakeNodes
    book: CodeBook
    timing: Timing = field(default_factory=Timing)
    seed: int = 0
    direct_ingress: bool = True
    is_running: bool = False
    now: datetime | None = None
    applications: dict[str, SimApplication] = field(default_factory=dict)
    top_level: dict[str, Any] = field(default_factory=dict)
    wanted: dict[tuple[str, str], int] = field(default_factory=dict)
    """What the autoscaler would like, by application and deployment."""
    places_by_deployment: bool = False
    """Whether room goes to one deployment of every application first; else to one application after the other."""
    installed: frozenset[str] = frozenset({"ray"})
    """What the head node can import, without the code of any application."""
    on_tick: Callable[[], None] | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _ports: Iterator[int] = field(default_factory=lambda: itertools.cycle(PORTS))
    _dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)

    def advance_to(self, now: datetime) -> None:
        """Run the control loop up to `now`."""
        if self.now is None:
            self.now = now
        while self.now + TICK <= now:
            if self._is_settled():
                self.now = now
                break
            self.now += TICK
            self._tick(self.now)

    def put(self, document: Mapping[str, Any]) -> None:
        """Replace the whole set of declarative applications, as `PUT /api/serve/applications/` does.

        Raises PutRefused when an application's request router cannot be imported: nothing is changed then.
        """
        for application in document["applications"]:
            for deployment in application.get("deployments", ()):
                self._import_router(deployment)
        now = self._moment()
        self.top_level = {key: value for key, value in document.items() if key != "applications"}
        self.is_running = True
        configs = {config["name"]: deployed_form(json.loads(json.dumps(config))) for config in document["applications"]}
        for name, config in configs.items():
            self._apply(name, config, now)
        for name, application in self.applications.items():
            if application.source == "declarative" and name not in configs:
                self._delete(application, now)
        self._tick(now)

    def _import_router(self, deployment: Mapping[str, Any]) -> None:
        path = deployment.get("request_router_config", {}).get("request_router_class", "ray.serve")
        module = path.split(".")[0]
        if module not in self.installed:
            raise PutRefused(500, f"ModuleNotFoundError: No module named '{module}'")

    def run_imperatively(self, config: dict[str, Any]) -> None:
        """Deploy an application as `serve.run` does: no PUT removes it."""
        now = self._moment()
        self.is_running = True
        self._apply(config["name"], config, now)
        self.applications[config["name"]].source = "imperative"

    def scale(self, application: str, deployment: str, target: int) -> None:
        """Do what the external scaler call does. Raises ScaleRefused."""
        found = self.applications.get(application)
        if found is None:
            raise ScaleRefused(404, "Application or Deployment not found")
        if not found.external_scaler:
            raise ScaleRefused(412, f"external_scaler_enabled is not set for application {application}")
        if deployment not in found.deployments:
            raise ScaleRefused(404, "Application or Deployment not found")
        if found.is_deleting:
            raise ScaleRefused(412, "Deployment is deleted")
        found.deployments[deployment].scale_to(target)
        self._tick(self._moment())

    def lose_head(self) -> None:
        """Forget everything, as a cluster without GCS fault tolerance does when its head restarts."""
        self.applications.clear()
        self.top_level, self.is_running = {}, False

    def details(self) -> dict[str, Any]:
        """Return what `GET /api/serve/applications/` answers."""
        if not self.is_running:
            return {"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": None}
        return {
            "controller_info": {"actor_id": "1"},
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0", "port": 8000},
            "grpc_options": {"port": 9000, "grpc_servicer_functions": []},
            "target_capacity": None,
            **self.top_level,
            "proxies": {n.id: _proxy(n) for n in self.nodes.usable()},
            "applications": {name: self._application(found) for name, found in sorted(self.applications.items())},
            "target_groups": [self._targets(found) for _, found in sorted(self.applications.items())],
        }

    def _moment(self) -> datetime:
        if self.now is None:
            raise RuntimeError("advance the simulation to a time first")
        return self.now

    def _is_settled(self) -> bool:
        return not self.book.sick and all(
            not found.is_building
            and not found.is_deleting
            and not found.retired
            and found.status != "DEPLOYING"
            and all(
                deployment.is_settled and self._is_satisfied(deployment) for deployment in found.deployments.values()
            )
            for found in self.applications.values()
        )

    def _is_satisfied(self, deployment: SimDeployment) -> bool:
        """Return whether neither its demand nor its nodes ask for a change."""
        wanted = self.wanted.get((deployment.application, deployment.name))
        homes = [self.nodes.nodes[replica.node] for replica in deployment.replicas if replica.node is not None]
        return (deployment.bounds is None or wanted in (None, deployment.target)) and all(
            home.is_alive and not home.is_draining for home in homes
        )

    def _apply(self, name: str, config: dict[str, Any], now: datetime) -> None:
        found = self.applications.get(name)
        if found is None:
            found = self.applications[name] = SimApplication(name=name, config=config, deployed_at=now)
        if found.is_deleting:
            # Deletion forgets the code version: what comes back before it is gone is built anew.
            found.retired += found.deployments.values()
            found.deployments, found.built = {}, None
        found.config, found.deployed_at, found.is_deleting, found.status = config, now, False, "DEPLOYING"
        if found.built is not None and found.built == code_version(config):
            listed = {entry["name"]: entry for entry in config.get("deployments", ())}
            for deployment in found.deployments.values():
                deployment.configure(listed.get(deployment.name, {}), now)
            return
        # New code, a build in progress, or a failed build: Serve starts (again) from the beginning.
        found.built, found.is_building, found.build_ends, found.message = None, True, None, ""

    def _delete(self, found: SimApplication, now: datetime) -> None:
        if not found.is_deleting:
            found.is_deleting, found.is_building, found.status, found.message = True, False, "DELETING", ""
            for deployment in found.all_deployments:
                deployment.delete(now)

    def _tick(self, now: datetime) -> None:
        for name, found in list(self.applications.items()):
            self._build(found, now)
            for deployment in found.all_deployments:
                deployment.autoscale(self.wanted.get((name, deployment.name)), now)
                deployment.tick(now, self.nodes.nodes, sick=name in self.book.sick)
            found.retired = [deployment for deployment in found.retired if deployment.replicas]
            if found.is_deleting and not any(deployment.replicas for deployment in found.all_deployments):
                del self.applications[name]
            elif not found.is_building and found.built is not None and not found.is_deleting:
                found.status, found.message = _judge(found)
        self._place(now)
        if self.on_tick is not None:
            self.on_tick()

    def _build(self, found: SimApplication, now: datetime) -> None:
        if not found.is_building:
            return
        behaviour = self.book.behaviour(found.config)
        if found.build_ends is None:
            # The build task carries the application's selector: without a fitting node it waits for ever.
            if behaviour.never_schedules or not any(self._fits_somewhere(found.config)):
                return
            found.build_ends = now + behaviour.build_time
        if found.build_ends > now:
            return
        found.is_building, found.build_ends = False, None
        if behaviour.fail_build:
            found.status = "DEPLOY_FAILED"
            found.message = f"Deploying app '{found.name}' failed with exception:\n{behaviour.fail_build}"
            return
        for deployment in found.deployments.values():
            deployment.delete(now)
            found.retired.append(deployment)
        found.built = code_version(found.config)
        found.deployments = {name: self._deploy(found, behaviour, name) for name, _ in behaviour.deployments}

    def _deploy(self, found: SimApplication, behaviour: Behaviour, name: str) -> SimDeployment:
        listed = {entry["name"]: entry for entry in found.config.get("deployments", ())}
        deployment = SimDeployment(
            name=name,
            application=found.name,
            behaviour=behaviour,
            timing=self.timing,
            options=listed.get(name, {}),
            code_count=dict(behaviour.deployments)[name],
            numbering=lambda: next(self._numbers),
            dice=self._dice,
        )
        deployment.set_first_target()
        return deployment

    def _fits_somewhere(self, config: Mapping[str, Any]) -> Iterator[Node]:
        selectors = [_selector(entry) for entry in config.get("deployments", ())]
        return (node for node in self.nodes.usable() if all(_matches(node, selector) for selector in selectors))

    def _place(self, now: datetime) -> None:
        """Give waiting replicas a node with room, the emptiest first."""
        free = {node.id: dict(node.resources) for node in self.nodes.usable()}
        for deployment in self._deployments():
            for replica in deployment.replicas:
                if replica.node in free:
                    for resource, amount in deployment.demand.items():
                        free[replica.node][resource] = free[replica.node].get(resource, 0.0) - amount
        waiting = list(self._deployments())
        if self.places_by_deployment:
            waiting.sort(key=lambda deployment: deployment.name)
        for deployment in waiting:
            for replica in deployment.waiting():
                self._place_one(deployment, replica, free, now)

    def _place_one(
        self, deployment: SimDeployment, replica: SimReplica, free: dict[str, dict[str, float]], now: datetime
    ) -> None:
        selector = _selector(deployment.options)
        able = [
            node
            for node in self.nodes.usable()
            if _matches(node, selector)
            and all(free[node.id].get(resource, 0.0) >= amount - 1e-9 for resource, amount in deployment.demand.items())
        ]
        if not able:
            return
        home = max(able, key=lambda node: (free[node.id].get("CPU", 0.0), node.id))
        if deployment.application in self.book.sick:
            # Nodes that have just run a replica are left out where others are as good: each start is on another one.
            home = able[int(replica.id, 16) % len(able)]
        for resource, amount in deployment.demand.items():
            free[home.id][resource] = free[home.id].get(resource, 0.0) - amount
        replica.node, replica.ip, replica.port = home.id, home.ip, next(self._ports)
        replica.due = now + deployment.behaviour.start_time

    def _deployments(self) -> Iterator[SimDeployment]:
        return itertools.chain.from_iterable(found.all_deployments for found in self.applications.values())

    def _application(self, found: SimApplication) -> dict[str, Any]:
        hidden = found.built is None and not found.is_deleting
        ingress = self.book.ingress(found.config)
        return {
            "name": found.name,
            "route_prefix": None if hidden else found.config.get("route_prefix"),
            "status": found.status,
            "message": found.message,
            "last_deployed_time_s": found.deployed_at.timestamp(),
            "deployed_app_config": None if found.is_deleting or found.source == "imperative" else found.config,
            "source": found.source,
            "deployments": {} if hidden else {name: _deployment(one) for name, one in found.deployments.items()},
            "deployment_topology": None if hidden else {"ingress_deployment": ingress},
            "external_scaler_enabled": found.external_scaler,
        }

    def _targets(self, found: SimApplication) -> dict[str, Any]:
        ingress = found.deployments.get(self.book.ingress(found.config))
        serving = [replica for replica in ingress.replicas if replica.is_serving] if ingress is not None else []
        if found.built is None or not serving or not self.direct_ingress:
            targets = [{"ip": n.ip, "port": 8000, "name": f"SERVE_PROXY_ACTOR-{n.id}"} for n in self.nodes.usable()]
        else:
            targets = [
                {"ip": r.ip, "port": r.port, "name": f"SERVE_REPLICA::{found.name}#{ingress.name}#{r.id}"}
                for r in serving
                if ingress is not None
            ]
        return {"protocol": "HTTP", "app_name": found.name, "targets": targets}


def code_version(config: Mapping[str, Any]) -> str:
    """Return what makes Serve build anew, by Ray's own rule (`get_app_code_version`)."""
    entries = config.get("deployments", ())
    scaled = [entry["autoscaling_config"] for entry in entries if isinstance(entry.get("autoscaling_config"), dict)]
    return json.dumps(
        {
            "import_path": config["import_path"],
            "runtime_env": config.get("runtime_env", {}),
            "args": config.get("args", {}),
            "policies": [auto.get("policy") for auto in scaled],
            "routers": [entry.get("request_router_config") for entry in entries if "request_router_config" in entry],
        },
        sort_keys=True,
    )


def _judge(found: SimApplication) -> tuple[str, str]:
    statuses = {deployment.status for deployment in found.deployments.values()}
    for bad, said in (("DEPLOY_FAILED", "Failed to update the deployments"), ("UNHEALTHY", "Unhealthy deployments:")):
        if bad in statuses:
            names = sorted(one.name for one in found.deployments.values() if one.status == bad)
            return bad, f"{said} {names}."
    manual = any(
        one.status == "UPDATING" or (one.status != "HEALTHY" and one.trigger == "CONFIG_UPDATE_STARTED")
        for one in found.deployments.values()
    )
    return ("DEPLOYING" if manual else "RUNNING"), ""


def _deployment(one: SimDeployment) -> dict[str, Any]:
    scale = {"num_replicas": one.target} if one.bounds is None else {"autoscaling_config": dict(one.bounds)}
    return {
        "name": one.name,
        "status": one.status,
        "message": one.message,
        "deployment_config": {"name": one.name, "ray_actor_options": _actor_options(one), **scale},
        "target_num_replicas": one.target,
        "replicas": [{"replica_id": r.id, "state": r.state, "node_id": r.node} for r in one.replicas],
    }


def _actor_options(one: SimDeployment) -> dict[str, Any]:
    demand = {"num_cpus": one.demand["CPU"], "num_gpus": one.demand["GPU"]}
    return {**demand, "label_selector": dict(_selector(one.options))}


def _proxy(node: Node) -> dict[str, Any]:
    return {"node_ip": node.ip, "actor_name": f"SERVE_PROXY_ACTOR-{node.id}", "status": "HEALTHY"}


def _selector(entry: Mapping[str, Any]) -> Mapping[str, str]:
    return (entry.get("ray_actor_options") or {}).get("label_selector") or {}


def _matches(node: Node, selector: Mapping[str, str]) -> bool:
    return matches(node.labels, selector)
