"""Autoscaled services that go to other zones: what they are to have does not grow because they move."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import zones
from tests.sim.test_zones import deployed, give_back, lose, over_zones, per_zone, spec
from tests.sim.world import Simulation


@pytest.mark.parametrize("way", [{"surge": 1}, {"surge": 2}, {"surge": "100%"}, {"surge": 0, "unavailable": 1}])
@pytest.mark.parametrize("size", [(4, 12), (12, 40), (12, 12), (3, 3)])
async def test_an_autoscaled_service_leaves_a_zone_without_growing_by_more_than_its_surge(
    size: tuple[int, int], way: dict[str, Any]
) -> None:
    sim = over_zones("a", "b", "c")
    await deployed(sim, spec(size=size, **way))
    before = sum(per_zone(sim).values())
    surge = before if way["surge"] == "100%" else way["surge"]
    sim.push(spec(size=size, placement=zones(exclude=["c"]), **way))
    peak = 0
    for _ in range(240):
        await sim.step()
        peak = max(peak, targets(sim))
    assert peak <= before + max(1, surge)
    assert sorted(per_zone(sim)) == ["a", "b"]
    assert sum(per_zone(sim).values()) == before
    await sim.settle()
    assert sim.memory().base == {}


async def test_an_autoscaled_service_without_any_surge_comes_back_to_a_zone() -> None:
    sim = over_zones("a", "b", "c")
    await deployed(sim, spec(size=(4, 12), surge=0, unavailable=1))
    lose(sim, "c")
    await sim.until(lambda: per_zone(sim) == {"a": 2, "b": 2}, within=120, what="rebuilt")
    give_back(sim, "c")
    await sim.until(lambda: sorted(per_zone(sim)) == ["a", "b", "c"], within=300, what="all zones are used")


def targets(sim: Simulation) -> int:
    """Return how many replicas Serve is asked for."""
    return sum(
        deployment.target
        for _, app in sim.watch.applications("chat")
        if not app.is_deleting
        for deployment in app.all_deployments
    )
