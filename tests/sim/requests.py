"""Requests in virtual time: routed as the gateway routes, held by a replica until they end."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from specs.routes import FULL, ServiceRoute

if TYPE_CHECKING:
    from tests.sim.world import Simulation

PATIENCE = 5
"""Seconds that requests may find nobody though somebody is ready: a crash, a check and a turn of the loop."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request on its replica."""

    service: str
    cell: str
    replica: str
    ends: datetime


class Requests:
    """One request a second for each routed service. `cut` and `unrouted` say what went wrong, and where."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._dice = random.Random(sim.seed)
        self.in_flight: list[Request] = []
        self.answered = 0
        self.cut: list[Request] = []
        self.durations = (1.0, 20.0)
        """Requests last between these seconds; never longer than what a stopping replica drains."""
        self._unrouted: dict[str, int] = {}
        self._stopping: set[str] = set()

    def forget(self) -> None:
        """Requests now in flight may be lost without anybody's fault."""
        self.in_flight = []

    def step(self) -> None:
        now = self._sim.clock.now()
        replicas = self._replicas()
        for request in self.in_flight:
            if request.ends <= now:
                self.answered += 1
            elif request.replica not in replicas and request.replica in self._stopping:
                self.cut.append(request)  # One that crashed takes its requests along: nobody's decision.
        self.in_flight = [one for one in self.in_flight if one.ends > now and one.replica in replicas]
        self._stopping = {replica for replica, state in replicas.items() if state == "STOPPING"}
        for row in self._sim.gateway.table.services:
            self._arrive(row, now)
        counts: dict[str, int] = {}
        for request in self.in_flight:
            counts[request.cell] = counts.get(request.cell, 0) + 1
        self._sim.gateway.in_flight = counts

    def check(self) -> None:
        """Raise AssertionError when requests found nobody though somebody was ready, or were cut by us."""
        for service, missed in self._unrouted.items():
            assert missed <= PATIENCE, f"I3: {missed} requests in a row of {service} found nobody though one is ready"
        assert not self.cut, f"I3: cut {self.cut[0]} at {self._sim.clock.now():%H:%M:%S}"

    def _replicas(self) -> dict[str, str]:
        apps = self._sim.serve.instance.applications.values()
        return {one.id: one.state for app in apps for deployment in app.all_deployments for one in deployment.replicas}

    def _arrive(self, row: ServiceRoute, now: datetime) -> None:
        weighted = [cell for cell in row.cells if cell.weight > 0]
        if not weighted:
            self._miss(row, now)
            return
        dice = self._dice.randrange(FULL)
        first = next(cell for place, cell in enumerate(weighted) if dice < sum(c.weight for c in weighted[: place + 1]))
        for cell in (first, *weighted):
            up = sorted(self._sim.watch.truth.up(cell.cell))
            if up:
                ends = now + timedelta(seconds=self._dice.uniform(*self.durations))
                self.in_flight.append(
                    Request(service=row.service, cell=cell.cell, replica=self._dice.choice(up), ends=ends)
                )
                self._unrouted[row.service] = 0
                return
        self._miss(row, now)

    def _miss(self, row: ServiceRoute, now: datetime) -> None:
        """Count a request that nobody took, when a cell of the row that was good before could have."""
        memory = self._sim.known(row.service)
        stable = memory.stable if memory else None
        able = stable is not None and self._sim.watch.truth.is_serving(row.service, stable)
        able = able and not self._sim.is_hindered
        self._unrouted[row.service] = self._unrouted.get(row.service, 0) + 1 if able else 0
