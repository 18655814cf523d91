"""A cluster in virtual time, good enough to time rollouts: what is live now, and what effects would make of it.

It knows how long things take (`Pace`) and what fits where, by Serve's rules as far as Heliostat depends on them.
It does not know of failures: a plan says what happens when the new revision is good.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, assert_never

from reconciler.planning.pace import Pace
from reconciler.planning.virtual_gateway import VirtualGateway
from specs.canonical import canonical_json
from specs.cells import parse_cell_name
from specs.effects import (
    ConsultPolicy,
    Effect,
    MeasureMetric,
    PostQuestion,
    PutServeConfig,
    SaveMemory,
    ScaleDeployment,
    SetRoutes,
    TendStaging,
    UploadPackage,
)
from specs.observed import (
    CellSeen,
    CellStatus,
    DeploymentSeen,
    Observed,
    Replica,
    ReplicaState,
)
from specs.routes import RouteTable
from specs.selectors import matches
from specs.serve_document import deployed_form

EPSILON = 1e-6

UNPLACED_AFTER = timedelta(seconds=30)
"""Serve says that a replica waits for a node when it has waited for so long."""


@dataclass(slots=True, kw_only=True)
class _Replica:
    id: str
    state: ReplicaState
    node: str = ""
    due: datetime | None = None
    """When its start or stop is over; None while it waits for a node."""
    born: datetime


@dataclass(slots=True, kw_only=True)
class _Deployment:
    name: str
    target: int
    needs: Mapping[str, float]
    selector: Mapping[str, str]
    is_ingress: bool
    is_autoscaled: bool
    replicas: list[_Replica] = field(default_factory=list)

    def counted(self) -> list[_Replica]:
        return [replica for replica in self.replicas if replica.state is not ReplicaState.STOPPING]


@dataclass(slots=True, kw_only=True)
class _Cell:
    name: str
    config: str | None
    status: CellStatus
    deployments: dict[str, _Deployment]
    built_at: datetime | None = None
    deployed_at: datetime | None = None
    route_prefix: str | None = None
    is_declarative: bool = True


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A replica that no node has room for."""

    cell: str
    deployment: str
    needs: Mapping[str, float]


class VirtualCluster:
    """Starts from what was observed; moves when it is told the time, and by effects."""

    def __init__(self, observed: Observed, routed: RouteTable, paces: Mapping[str, Pace]) -> None:
        """`paces` are by service; others go at the default."""
        self.now = observed.at
        self.routed = routed
        self._paces = paces
        self._nodes = tuple(sorted(observed.nodes, key=lambda node: node.id))
        self._cells = {cell.name: self._taken_over(cell, observed.building_since) for cell in observed.cells}
        self._gateway = VirtualGateway(observed.gateway, self.now, lambda cell: self._pace(cell).answer)
        self._numbers = 0

    def _pace(self, cell: str) -> Pace:
        key = parse_cell_name(cell)
        return self._paces.get(key.service, Pace()) if key is not None else Pace()

    def _taken_over(self, seen: CellSeen, building_since: Mapping[str, datetime]) -> _Cell:
        pace = self._pace(seen.name)
        built = max(self.now, building_since.get(seen.name, self.now) + pace.build)
        return _Cell(
            name=seen.name,
            config=seen.config,
            status=seen.status,
            deployments={found.name: self._deployment_taken_over(found, pace) for found in seen.deployments},
            built_at=built if seen.is_building else None,
            deployed_at=seen.last_deployed_at,
            route_prefix=seen.route_prefix,
            is_declarative=seen.is_declarative,
        )

    def _deployment_taken_over(self, seen: DeploymentSeen, pace: Pace) -> _Deployment:
        ends = {ReplicaState.STARTING: pace.start, ReplicaState.STOPPING: pace.stop}
        return _Deployment(
            name=seen.name,
            target=seen.target,
            needs=seen.needs,
            selector=seen.selector,
            is_ingress=seen.is_ingress,
            is_autoscaled=seen.is_autoscaled,
            replicas=[
                _Replica(
                    id=replica.id,
                    state=replica.state,
                    node=replica.node,
                    # One that starts without a node may be waiting for one.
                    due=self.now + ends[replica.state] if replica.state in ends and not replica.is_homeless else None,
                    born=self.now,
                )
                for replica in seen.replicas
            ],
        )

    # -- looking -----------------------------------------------------------------------------------

    def observed(self) -> Observed:
        """Return what the daemon would see now."""
        return Observed(
            at=self.now,
            complete=True,
            cells=tuple(self._seen(cell) for _, cell in sorted(self._cells.items())),
            nodes=self._nodes,
            gateway=self._gateway.seen(self._up),
            building_since={cell.name: self.now for cell in self._cells.values() if cell.built_at is not None},
        )

    def _seen(self, cell: _Cell) -> CellSeen:
        hidden = cell.built_at is not None
        found = () if hidden else tuple(self._deployment_seen(one) for _, one in sorted(cell.deployments.items()))
        return CellSeen(
            name=cell.name,
            status=cell.status,
            message="",
            route_prefix=None if hidden else cell.route_prefix,
            is_declarative=cell.is_declarative,
            config=None if cell.status is CellStatus.DELETING else cell.config,
            deployments=found,
            last_deployed_at=cell.deployed_at,
        )

    def _deployment_seen(self, found: _Deployment) -> DeploymentSeen:
        homeless = [one for one in found.replicas if one.state is ReplicaState.STARTING and not one.node]
        is_settled = all(one.state is ReplicaState.RUNNING for one in found.replicas)
        return DeploymentSeen(
            name=found.name,
            status="HEALTHY" if is_settled and len(found.replicas) == found.target else "UPDATING",
            message="",
            target=found.target,
            replicas=tuple(Replica(id=one.id, state=one.state, node=one.node) for one in found.replicas),
            is_ingress=found.is_ingress,
            is_autoscaled=found.is_autoscaled,
            needs=found.needs,
            selector=found.selector,
            is_unplaced=any(self.now - one.born >= UNPLACED_AFTER for one in homeless),
        )

    def _up(self, cell: str) -> frozenset[str]:
        found = self._cells.get(cell)
        if found is None or found.built_at is not None:
            return frozenset()
        ingresses = (one for one in found.deployments.values() if one.is_ingress)
        return frozenset(
            one.id for ingress in ingresses for one in ingress.replicas if one.state is ReplicaState.RUNNING
        )

    def live(self) -> Mapping[tuple[str, str], int]:
        """Return the live replicas per service and deployment, stopping ones included."""
        counts: dict[tuple[str, str], int] = {}
        for cell, found in self._ours():
            key = (cell, found.name)
            counts[key] = counts.get(key, 0) + len(found.replicas)
        return counts

    def running(self, service: str) -> Mapping[str, tuple[str, str]]:
        """Return deployment and node of each replica of a service that runs, by its id."""
        return {
            replica.id: (found.name, replica.node)
            for owner, found in self._ours()
            if owner == service
            for replica in found.replicas
            if replica.state is ReplicaState.RUNNING
        }

    def is_still(self, service: str) -> bool:
        """Return whether nothing of a service is being built or started."""
        ours = [cell for cell in self._cells.values() if cell.name.partition(".")[0] == service]
        found = (one for cell in ours for one in cell.deployments.values())
        return not any(cell.built_at is not None for cell in ours) and all(map(_is_still, found))

    def in_use(self) -> Mapping[str, float]:
        """Return the resources that all replicas hold."""
        total: dict[str, float] = {}
        for cell in self._cells.values():
            for found in cell.deployments.values():
                held = sum(1 for replica in found.replicas if replica.node)
                for name, need in found.needs.items():
                    total[name] = total.get(name, 0.0) + need * held
        return total

    def waiting(self) -> tuple[Waiting, ...]:
        """Return the replicas without a node."""
        return tuple(
            Waiting(cell=cell.name, deployment=found.name, needs=found.needs)
            for _, cell in sorted(self._cells.items())
            for found in cell.deployments.values()
            for replica in found.replicas
            if replica.state is ReplicaState.STARTING and not replica.node
        )

    def _ours(self) -> Iterator[tuple[str, _Deployment]]:
        for cell in self._cells.values():
            key = parse_cell_name(cell.name)
            if key is not None:
                yield from ((key.service, found) for found in cell.deployments.values())

    # -- time --------------------------------------------------------------------------------------

    def next_due(self) -> datetime | None:
        """Return when something ends by itself, None when nothing is under way."""
        ends = [cell.built_at for cell in self._cells.values() if cell.built_at is not None]
        ends += self._gateway.ends()
        for cell in self._cells.values():
            for found in cell.deployments.values():
                ends += [replica.due for replica in found.replicas if replica.due is not None]
        return min(ends, default=None)

    def advance(self, now: datetime) -> None:
        """Let everything happen that ends until `now`."""
        while (due := self.next_due()) is not None and due <= now:
            self.now = max(self.now, due)
            self._end_what_is_due()
            self._follow_targets()
        self.now = now
        self._follow_targets()

    def _end_what_is_due(self) -> None:
        self._gateway.end(self.now)
        for cell in list(self._cells.values()):
            if cell.built_at is not None and cell.built_at <= self.now:
                cell.built_at, cell.status = None, CellStatus.RUNNING
            for found in cell.deployments.values():
                found.replicas = [one for one in found.replicas if not self._is_gone(one)]
                for one in found.replicas:
                    if one.due is not None and one.due <= self.now:
                        one.state, one.due = ReplicaState.RUNNING, None
            is_empty = not any(found.replicas for found in cell.deployments.values())
            if cell.status is CellStatus.DELETING and is_empty:
                del self._cells[cell.name]
                self._gateway.forget(cell.name)

    def _is_gone(self, replica: _Replica) -> bool:
        return replica.state is ReplicaState.STOPPING and replica.due is not None and replica.due <= self.now

    def _follow_targets(self) -> None:
        """Stop what is too much, start what is missing, and give a node to who waits for one."""
        for _, cell in sorted(self._cells.items()):
            if cell.built_at is not None:
                continue
            for _, found in sorted(cell.deployments.items()):
                self._shrink(cell, found)
                self._grow(cell, found)
        self._place()

    def _shrink(self, cell: _Cell, found: _Deployment) -> None:
        """Stop who does not run yet first; of the others the last ones by id, for want of Serve's own choice.

        What leaves a cell that goes on has requests to answer; a cell is only deleted when there are none.
        """
        pace = self._pace(cell.name)
        stop = pace.stop if cell.status is CellStatus.DELETING else max(pace.stop, pace.answer)
        counted = found.counted()
        excess = len(counted) - found.target
        if excess <= 0:
            return
        counted.sort(key=lambda one: (one.state is ReplicaState.RUNNING, one.id), reverse=False)
        starting = [one for one in counted if one.state is ReplicaState.STARTING]
        running = [one for one in counted if one.state is ReplicaState.RUNNING]
        for one in [*starting, *reversed(running)][:excess]:
            if not one.node:
                found.replicas.remove(one)
            else:
                one.state, one.due = ReplicaState.STOPPING, self.now + stop

    def _grow(self, cell: _Cell, found: _Deployment) -> None:
        for _ in range(found.target - len(found.counted())):
            self._numbers += 1
            name = f"{cell.name}-{found.name}-{self._numbers}"
            found.replicas.append(_Replica(id=name, state=ReplicaState.STARTING, born=self.now))

    def _place(self) -> None:
        """Give waiting replicas the emptiest node that has room, as Serve does by default."""
        free = self._free()
        for _, cell in sorted(self._cells.items()):
            start = self._pace(cell.name).start
            for _, found in sorted(cell.deployments.items()):
                for one in found.replicas:
                    if one.state is ReplicaState.STARTING and not one.node:
                        self._place_one(one, found, free, start)

    def _place_one(
        self, one: _Replica, found: _Deployment, free: Mapping[str, dict[str, float]], start: timedelta
    ) -> None:
        able = [
            node
            for node in self._nodes
            if node.id in free
            and matches(node.labels, found.selector)
            and all(free[node.id].get(name, 0.0) >= need - EPSILON for name, need in found.needs.items())
        ]
        if not able:
            return
        home = max(able, key=lambda node: (free[node.id].get("CPU", 0.0), node.id))
        for name, need in found.needs.items():
            free[home.id][name] = free[home.id].get(name, 0.0) - need
        one.node, one.due = home.id, self.now + start

    def _free(self) -> dict[str, dict[str, float]]:
        usable = [node for node in self._nodes if node.is_alive and not node.is_draining]
        free = {node.id: dict(node.resources) for node in usable}
        for cell in self._cells.values():
            for found in cell.deployments.values():
                for one in found.replicas:
                    for name, need in found.needs.items() if one.node in free else ():
                        free[one.node][name] = free[one.node].get(name, 0.0) - need
        return free

    # -- effects -----------------------------------------------------------------------------------

    def apply(self, effects: Sequence[Effect]) -> None:
        """Do what the daemon would do."""
        for effect in effects:
            match effect:
                case PutServeConfig():
                    self._put(effect)
                case ScaleDeployment():
                    self._scale(effect)
                case SetRoutes(table=table):
                    self._route(table)
                case (
                    SaveMemory() | UploadPackage() | PostQuestion() | MeasureMetric() | ConsultPolicy() | TendStaging()
                ):
                    pass  # Nothing of these can be seen in the cluster.
                case _:
                    assert_never(effect)
        self._follow_targets()

    def _route(self, table: RouteTable) -> None:
        self.routed = table
        self._gateway.route(table, self.now)

    def _scale(self, effect: ScaleDeployment) -> None:
        cell = self._cells.get(effect.application)
        found = cell.deployments.get(effect.deployment) if cell is not None else None
        if found is not None:
            found.target = effect.target

    def _put(self, effect: PutServeConfig) -> None:
        for application in effect.applications:
            config: dict[str, Any] = json.loads(application.config)
            cell = self._cells.get(application.name)
            if cell is None or cell.status is CellStatus.DELETING:
                self._create(application.name, config)
            else:
                self._configure(cell, config)
        for name in sorted(effect.removed & self._cells.keys()):
            self._delete(self._cells[name])

    def _create(self, name: str, config: dict[str, Any]) -> None:
        pace = self._pace(name)
        self._cells[name] = _Cell(
            name=name,
            config=_stored(config),
            status=CellStatus.DEPLOYING,
            deployments={found.name: found for found in self._declared(name, config)},
            built_at=self.now + pace.build,
            deployed_at=self.now,
            route_prefix=config.get("route_prefix"),
        )

    def _configure(self, cell: _Cell, config: dict[str, Any]) -> None:
        cell.config = _stored(config)
        for entry in config.get("deployments") or ():
            found = cell.deployments.get(entry["name"])
            if found is not None:
                found.target = _first_target(entry, found.target)

    def _delete(self, cell: _Cell) -> None:
        cell.status, cell.built_at = CellStatus.DELETING, None
        for found in cell.deployments.values():
            found.target = 0
            self._shrink(cell, found)
        if not any(found.replicas for found in cell.deployments.values()):
            del self._cells[cell.name]
            self._gateway.forget(cell.name)

    def _declared(self, name: str, config: dict[str, Any]) -> Iterable[_Deployment]:
        """Return a new application's deployments: those that it lists, and those that its predecessors have too."""
        listed = {entry["name"]: entry for entry in config.get("deployments") or ()}
        models = self._models(name)
        ingress = next((known.name for known in models.values() if known.is_ingress), min(listed, default=""))
        for known in sorted(models.keys() | listed.keys()):
            model, entry = models.get(known), listed.get(known, {})
            yield _Deployment(
                name=known,
                target=_first_target(entry, model.target if model is not None and not entry else 1),
                needs=_needs(entry, model),
                selector=(entry.get("ray_actor_options") or {}).get("label_selector") or {},
                is_ingress=known == ingress,
                is_autoscaled=entry.get("autoscaling_config") is not None,
            )

    def _models(self, name: str) -> Mapping[str, _Deployment]:
        """Return the deployments of the service's oldest cell: what the spec does not list, the code has."""
        key = parse_cell_name(name)
        for cell in self._cells.values():
            other = parse_cell_name(cell.name)
            if key is not None and other is not None and other.service == key.service and cell.built_at is None:
                return cell.deployments
        return {}


def _is_still(found: _Deployment) -> bool:
    return [one.state for one in found.counted()] == [ReplicaState.RUNNING] * found.target


def _stored(config: dict[str, Any]) -> str:
    return canonical_json(deployed_form(config))


def _first_target(entry: Mapping[str, Any], target: int) -> int:
    scaling = entry.get("autoscaling_config")
    if scaling:
        low, high = scaling.get("min_replicas", 1), scaling.get("max_replicas", 1)
        return int(max(low, min(high, target)))
    count = entry.get("num_replicas")
    return count if isinstance(count, int) else target


def _needs(entry: Mapping[str, Any], model: _Deployment | None) -> Mapping[str, float]:
    """Return what one replica takes, by Ray's rules; what the spec does not say is as it was."""
    bundles, options = entry.get("placement_group_bundles"), entry.get("ray_actor_options")
    if bundles:
        names = sorted({name for bundle in bundles for name in bundle})
        return {name: float(sum(bundle.get(name, 0.0) for bundle in bundles)) for name in names}
    if not options:
        return model.needs if model is not None else {"CPU": 1.0}
    cpus = options.get("num_cpus")
    needs = {
        "CPU": 1.0 if cpus is None else cpus,
        "GPU": options.get("num_gpus") or 0.0,
        "memory": options.get("memory") or 0.0,
        **(options.get("resources") or {}),
    }
    return {name: float(amount) for name, amount in sorted(needs.items()) if amount}
