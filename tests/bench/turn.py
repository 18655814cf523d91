"""What a whole turn of the daemon costs when two hundred services are being judged at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from reconciler.garbage import spare_what_is_there
from specs.desired import ClusterSettings, DesiredService
from tests.bench import report
from tests.builders import service, steps
from tests.sim.invariants import Watch
from tests.sim.world import STEP, Simulation

SERVICES = 200
TURNS = 30
GOAL = 100.0
"""Milliseconds."""


class Unwatched(Watch):
    """Checks nothing: what the invariants cost is not the daemon's."""

    def saved(self, *args: Any) -> None: ...
    def before_tick(self) -> None: ...
    def after_tick(self) -> None: ...
    def before_route(self, *args: Any) -> None: ...
    def before_scale(self, *args: Any) -> None: ...
    def before_put(self, *args: Any) -> Any:
        return lambda: None


@dataclass(kw_only=True)
class Crowd(Simulation):
    """Two hundred services with two replicas each on nodes that have room for all of them."""

    cpus: float = 100_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.watch = Unwatched(self)


def specs(version: str) -> list[DesiredService]:
    asked = {"min_requests": 50}
    return [
        service(f"s{number:03}", version, 2, steps=steps(25, "analysis 100000"), analysis=asked, max_request=20)
        for number in range(SERVICES)
    ]


async def in_analysis() -> Simulation:
    """Return a cluster in which each service's candidate has a quarter of the requests and is being judged."""
    sim = Crowd()
    await sim.start()
    for version, seconds in (("v1", 25), ("v2", 40)):
        sim.push(*specs(version), settings=ClusterSettings(max_services_moving=SERVICES))
        await sim.run(seconds)
    assert sim.daemon is not None
    assert sim.daemon.status is not None
    reasons = Counter(one.reason.value for one in sim.daemon.status.services)
    assert reasons == {"Analysing": SERVICES}, reasons
    return sim


async def _turns() -> list[float]:
    """Return the processor time of each turn in milliseconds; new requests come before each."""
    sim = await in_analysis()
    spare_what_is_there()  # As the daemon does; and the simulated cluster is not the daemon's to walk through.
    assert sim.daemon is not None
    took = []
    for _ in range(TURNS):
        sim.clock.jump(STEP)
        sim.signals.step()
        before = time.process_time()
        await sim.daemon.tick()
        took.append((time.process_time() - before) * 1000)
    return took


def run() -> None:
    """Measure and write docs/benchmarks/turn.md."""
    took = asyncio.run(_turns())
    middle = statistics.median(took)
    goal, measured = f"<= {GOAL:.0f} ms", f"{middle:.0f} ms"
    sections = [
        f"{SERVICES} services of two replicas, each with a candidate at 25% in an `analysis` step and 20 requests/s, "
        "in the simulation: what the daemon reads costs nothing there, so this is what it works itself. Processor time "
        f"of {TURNS} turns: perceiving, judging, planning, comparing with Serve's document, status.",
        "## Figures to reach",
        report.table(
            ["figure", "goal", "median", "least", "most"],
            [["one turn over 200 services in analysis", goal, measured, f"{min(took):.0f} ms", f"{max(took):.0f} ms"]],
        ),
    ]
    report.write("turn", "A turn over 200 services in analysis", sections)
