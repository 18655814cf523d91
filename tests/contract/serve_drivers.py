"""One way to use a Serve, simulated or real, so that one suite holds both to the same rules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from reconciler.ports import Nodes, Packages, Serve, ServeSeen
from specs.canonical import canonical_json
from specs.effects import PutServeConfig, ServeApplication
from specs.observed import CellSeen, ReplicaState
from tests.ray_cluster import DRAIN, RayAdapters
from tests.sim.fake_clock import START, FakeClock
from tests.sim.fake_nodes import FakeNodes, FakePackages
from tests.sim.fake_serve import FakeServe
from tests.sim.serve_model import Timing

PAUSE = timedelta(milliseconds=200)

LONGEST = timedelta(seconds=60)


@dataclass(kw_only=True)
class Driver:
    """A Serve with its nodes and packages. `clock` is None on a real cluster, where time passes by itself."""

    serve: Serve
    nodes: Nodes
    packages: Packages
    clock: FakeClock | None = None
    real: RayAdapters | None = None

    async def pass_time(self, duration: timedelta) -> None:
        """Let time pass."""
        if self.clock is None:
            await asyncio.sleep(duration.total_seconds())
        else:
            self.clock.jump(duration)

    def elapsed(self) -> timedelta:
        """Return a time to measure with."""
        if self.clock is None:
            return timedelta(seconds=time.monotonic())
        return self.clock.now() - START

    async def until(self, condition: Callable[[ServeSeen], bool], *, within: timedelta = LONGEST) -> ServeSeen:
        """Read until `condition` holds. Raises AssertionError with the last reading when it does not in time."""
        end = self.elapsed() + within
        while not condition(seen := await self.serve.read()):
            assert self.elapsed() < end, f"not within {within}: {seen}"
            await self.pass_time(PAUSE)
        return seen

    async def put(self, *applications: dict[str, Any], removed: tuple[str, ...] = (), cut: bool = False) -> None:
        """PUT through the port."""
        ours = tuple(
            ServeApplication(name=application["name"], config=canonical_json(application))
            for application in applications
        )
        await self.serve.put(PutServeConfig(applications=ours, removed=frozenset(removed), may_cut_builds=cut))

    async def put_by_somebody_else(self, *applications: dict[str, Any]) -> None:
        """PUT exactly these applications, past the port."""
        if self.real is not None:
            found = await self.real.serve.details()
            kept = {"proxy_location": found.proxy_location, "http_options": found.http_options}
            document = {key: value for key, value in kept.items() if value is not None}
            answer = await self.real.rest.send(
                "PUT",
                "/api/serve/applications/",
                body={**document, "applications": list(applications)},
                within=timedelta(seconds=60),
            )
            assert answer.status == 200
        else:
            assert isinstance(self.serve, FakeServe)
            self.serve.put_by_somebody_else(list(applications))


def fake_driver() -> Driver:
    """Return the simulation."""
    clock = FakeClock()
    nodes = FakeNodes.in_zones("a", "b", "c")
    return Driver(
        serve=FakeServe(clock, nodes=nodes, timing=Timing(drain=DRAIN)),
        nodes=nodes,
        packages=FakePackages(clock=clock),
        clock=clock,
    )


def real_driver(adapters: RayAdapters) -> Driver:
    """Return the test cluster."""
    return Driver(serve=adapters.serve, nodes=adapters.nodes, packages=adapters.packages, real=adapters)


def cell(seen: ServeSeen, name: str) -> CellSeen:
    """Return the application called `name`."""
    found = next((found for found in seen.cells if found.name == name), None)
    assert found is not None, f"{name} is not there: {seen}"
    return found


def running(name: str, deployment: str, count: int) -> Callable[[ServeSeen], bool]:
    """Return whether exactly `count` replicas of a deployment exist and all of them run."""

    def condition(seen: ServeSeen) -> bool:
        for found in seen.cells:
            part = found.deployment(deployment) if found.name == name else None
            if part is not None:
                return part.live == count == part.count(ReplicaState.RUNNING)
        return False

    return condition
