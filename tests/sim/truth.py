"""What really is, read from the simulated Serve and gateway, without the daemon's eyes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from specs.cells import CellKey, parse_cell_name
from specs.desired import AutoScale, DesiredService, FixedScale, Scale
from specs.placement import ANYWHERE, MOST_SITES, USABLE, ZoneFailure
from specs.routes import FULL
from specs.selectors import matches
from tests.sim.serve_instance import SimApplication
from tests.sim.serve_model import SimDeployment

if TYPE_CHECKING:
    from tests.sim.world import Simulation


class Truth:
    """Counts of replicas by service, revision and deployment. `ready_since` is kept by whoever steps time."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self.ready_since: dict[str, datetime] = {}

    def look(self) -> None:
        """Note since when each replica has been serving without a break."""
        now = self._sim.clock.now()
        serving = {
            replica
            for name, found in self._sim.serve.instance.applications.items()
            for deployment in found.deployments.values()
            for replica in self.serving(name, deployment)
        }
        self.ready_since = {replica: self.ready_since.get(replica, now) for replica in serving}

    def applications(self, service: str) -> list[tuple[CellKey, SimApplication]]:
        """Return a service's applications, those that are being deleted included."""
        found = ((parse_cell_name(name), app) for name, app in self._sim.serve.instance.applications.items())
        return [(key, app) for key, app in found if key is not None and key.service == service]

    def up(self, cell: str) -> frozenset[str]:
        """Return the replicas that pass the gateway's checks."""
        if not self._sim.gateway.has_lane(cell):
            return frozenset()
        return self._sim.gateway.up(cell) if self._sim.is_direct else self._behind_proxies(cell)

    def _behind_proxies(self, cell: str) -> frozenset[str]:
        found = self._sim.serve.instance.applications.get(cell)
        ingress = found.deployments.get(self._sim.book.behaviour(found.config).ingress) if found else None
        return frozenset(one.id for one in ingress.replicas if one.is_serving) if ingress else frozenset()

    def serving(self, cell: str, deployment: SimDeployment) -> list[str]:
        """Return the replicas that answer; at the ingress only what the gateway's checks found up."""
        running = [replica.id for replica in deployment.replicas if replica.is_serving]
        if deployment.name != deployment.behaviour.ingress or not self._sim.is_direct:
            return running
        up = self.up(cell)
        return [replica for replica in running if replica in up]

    def is_serving(self, service: str, revision: str) -> bool:
        """Return whether a revision has a cell in which every deployment has a replica that answers."""
        return any(
            bool(app.deployments) and all(self.serving(name, one) for one in app.deployments.values())
            for name, app in self._cells(service, revision)
        )

    def serving_count(self, service: str, revision: str, deployment: str) -> int:
        return sum(len(self.serving(name, dep)) for name, dep in self._deployments(service, revision, deployment))

    def ready_share(self, spec: DesiredService, revision: str) -> int:
        """Return the largest share that a revision's ready replicas can carry."""
        now, wait = self._sim.clock.now(), spec.rollout.min_ready
        carried, apart = Fraction(0), Fraction(0)
        wanted, answering = Counter[str](), Counter[str]()
        needed: dict[str, int] = {}
        for cell, app in self._cells(spec.name, revision):
            parts, whole = [], []
            for dep in app.deployments.values():
                ids = self.serving(cell, dep)
                ready = sum(1 for i in ids if i in self.ready_since and now - self.ready_since[i] >= wait)
                low, _ = self.target(spec, dep.name)
                needed[dep.name] = max(1, low - min(low, spec.rollout.max_unavailable.round_down(low)))
                parts.append(Fraction(ready, needed[dep.name]))
                whole.append(Fraction(dep.target, needed[dep.name]))
                wanted[dep.name] += dep.target
                answering[dep.name] += ready
            carried += min(parts, default=Fraction(0))
            apart += min(whole, default=Fraction(0))
        # What counts that do not divide over cells lose by themselves is forgiven: what is ready counts together.
        most, together = (
            min((Fraction(count, needed[name]) for name, count in counts.items()), default=Fraction(0))
            for counts in (answering, wanted)
        )
        return min(FULL, int(min(carried * together / apart if apart else carried, most) * FULL))

    def target(self, spec: DesiredService, deployment: str) -> tuple[int, int]:
        """Return the least and the most that a deployment's N can be.

        While revisions differ in whether they have it, or in how it is scaled, it may be what any of them says.
        """
        memory = self._sim.known(spec.name)
        own = spec.revision.scale(deployment)
        live = {cell.key.revision for cell in memory.cells} if memory else set()
        records = [record for record in memory.revisions if record.id in live] if memory else []
        others = [scale for record in records if (scale := record.scale(deployment)) and type(scale) is not type(own)]
        ranges = [_range(scale) for scale in (own, *others) if scale is not None]
        if ranges:
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
            return self._tolerant(spec, low), self._tolerant(spec, high)
        learned = memory.learned.get(deployment, 1) if memory else 1
        return learned, learned

    def _tolerant(self, spec: DesiredService, count: int) -> int:
        """Return N with what is kept ready for the loss of a zone, ceil(N / (Z - 1)) in each that can have any."""
        zones, memory = spec.placement.zones, self._sim.known(spec.name)
        if zones is None or zones.zone_failure is not ZoneFailure.TOLERATE or memory is None:
            return count
        believed = min(len(memory.sites), count, MOST_SITES)
        usable = min(believed, sum(1 for entry in memory.sites if entry.state in USABLE))
        return max(count, usable * math.ceil(count / (believed - 1))) if believed > 1 else count

    def floor(self, spec: DesiredService, deployment: str) -> int:
        low, _ = self.target(spec, deployment)
        return low - spec.rollout.max_unavailable.round_down(low)

    def ceiling(self, spec: DesiredService, deployment: str) -> int:
        _, high = self.target(spec, deployment)
        return high + spec.rollout.max_surge.round_up(high)

    def projected(self, service: str, deployment: str, targets: Mapping[str, int]) -> int:
        """Return the replicas that live once all targets are followed and before anything has stopped.

        `targets` replaces the targets of some cells.
        """
        total = 0
        for key, app in self.applications(service):
            for dep in app.deployments.values():  # Serve shows no replica of code that it builds anew.
                if dep.name != deployment:
                    continue
                if self._is_stranded(key):  # No node there takes a replica: only those that have one hold anything.
                    total += sum(1 for replica in dep.replicas if replica.node is not None)
                    continue
                stopping = sum(1 for replica in dep.replicas if replica.state == "STOPPING" and replica.holds_something)
                target = 0 if app.is_deleting else targets.get(key.name, dep.target)
                # Serve's own replacements hold nothing while no node takes them.
                migrating = sum(1 for r in dep.replicas if r.state == "PENDING_MIGRATION")
                waiting = min(migrating, sum(1 for r in dep.replicas if r.state == "STARTING" and r.node is None))
                total += stopping + max(target, sum(1 for r in dep.replicas if r.state != "STOPPING") - waiting)
        present = {key.name for key, app in self.applications(service) if deployment in app.deployments}
        return total + sum(count for name, count in targets.items() if name not in present)

    def _is_stranded(self, key: CellKey) -> bool:
        nodes = self._sim.nodes.usable()
        return key.site != ANYWHERE and not any(matches(node.labels, key.site.selector) for node in nodes)

    def _cells(self, service: str, revision: str) -> list[tuple[str, SimApplication]]:
        return [
            (key.name, app)
            for key, app in self.applications(service)
            if key.revision == revision and not app.is_deleting
        ]

    def _deployments(self, service: str, revision: str, name: str) -> Iterator[tuple[str, SimDeployment]]:
        for cell, app in self._cells(service, revision):
            if name in app.deployments:
                yield cell, app.deployments[name]


def _range(scale: Scale) -> tuple[int, int]:
    match scale:
        case FixedScale(replicas=count):
            return count, count
        case AutoScale():
            return scale.min_replicas, scale.max_replicas


def target_after(deployment: SimDeployment, entry: Mapping[str, Any]) -> int:
    """Return the target that a deployment has after a PUT with this entry for it (Serve's own rule)."""
    if dict(entry) == deployment.options:
        return deployment.target
    auto = entry.get("autoscaling_config")
    if auto is None:
        return int(entry.get("num_replicas") or deployment.code_count)
    return max(int(auto.get("min_replicas", 1)), min(int(auto.get("max_replicas", 1)), deployment.target))


def first_count(entry: Mapping[str, Any]) -> int | None:
    """Return the count that a new application's entry asks for; None when the code decides."""
    auto = entry.get("autoscaling_config")
    if auto is not None:
        return int(auto.get("min_replicas", 1))
    count = entry.get("num_replicas")
    return None if count is None else int(count)
