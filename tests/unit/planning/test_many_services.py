"""A turn over many services costs their number, not its square."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from reconciler.planning.compile import compile_effects
from reconciler.planning.moment import Surroundings
from reconciler.planning.plan import make_plan
from reconciler.planning.report import Circumstances, report
from specs.evidence import Evidence
from specs.memory import Comparison, Memory
from specs.observed import GatewaySeen, TrafficSeen
from specs.world import World
from tests.builders import GATEWAY_URL, NOW, cell, desired, seconds, service, steps, world


class Walked(tuple[Any, ...]):
    """A tuple that counts how often somebody begins to look through it. Shared, for copies are made of tuples."""

    walks = 0

    def __iter__(self) -> Iterator[Any]:
        Walked.walks += 1
        return super().__iter__()

    def __reversed__(self) -> Iterator[Any]:
        Walked.walks += 1
        return iter(self[::-1])


def analysing(name: str) -> World:
    spec = service(name, "v2", 2, steps=steps(50, "analysis 600"), analysis={"min_requests": 50})
    cells = cell("v1", ready=1, weight=5000, name=name), cell("v2", ready=1, weight=5000, name=name)
    start = {memory.key.name: Evidence() for memory, _, _ in cells}
    comparison = Comparison(
        candidate="v2", stable="v1", since=NOW - seconds(60), weights=dict.fromkeys(start, 5000), start=start
    )
    reached = {"reached_at": NOW - seconds(60)}
    return world(spec, *cells, stable="v1", candidate="v2", step=1, rollout=reached, comparison=comparison)


def together(count: int) -> World:
    """Return one world of so many services, each of them in the middle of an analysis."""
    parts = [analysing(f"s{number:02}") for number in range(count)]
    services = {name: memory for part in parts for name, memory in part.memory.services.items()}
    lanes = [lane for part in parts if part.observed.gateway for lane in part.observed.gateway.lanes]
    counted = [TrafficSeen(cell=lane.cell, requests=100, evidence=Evidence(requests=100)) for lane in lanes]
    gateway = GatewaySeen(is_direct=True, lanes=Walked(lanes), traffic=Walked(counted))
    cells = Walked(seen for part in parts for seen in part.observed.cells)
    return World(
        now=NOW,
        desired=desired(*(memory.wanted for memory in services.values())),
        observed=replace(parts[0].observed, cells=cells, gateway=gateway),
        memory=Memory(services=services),
    )


def walks(count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    made = together(count)
    monkeypatch.setattr(Walked, "walks", 0)
    planned = make_plan(made, Surroundings(gateway_url=GATEWAY_URL))
    compile_effects(planned, made.memory, None)
    status = report(planned, planned.memory, Circumstances(cluster="test", is_leader=True, problems={}), None)
    assert {one.reason.value for one in status.services} == {"Analysing"}
    assert all(one.traffic["v2"].requests == 100 for one in status.services)
    return Walked.walks


def test_no_service_looks_through_what_belongs_to_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert walks(3, monkeypatch) == walks(12, monkeypatch)
