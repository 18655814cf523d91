"""What a service may ask of its zones: at least so many, only these, and a reason for each that is not used."""

from __future__ import annotations

from typing import Any

import pytest

from specs.placement import Placement
from specs.reasons import Reason
from specs.status import Health, Phase
from tests.builders import zones
from tests.sim.fake_nodes import make_node
from tests.sim.test_zones import deployed, give_back, lose, over_zones, per_zone, spec
from tests.sim.world import Simulation


def unused(sim: Simulation) -> dict[str, str]:
    return {found.zone: found.message for found in sim.status().zones if found.message}


async def test_with_too_few_zones_what_runs_is_degraded_and_a_rollout_is_blocked_until_there_are_enough() -> None:
    sim = over_zones("a", "b", "c")
    await deployed(sim, spec(placement=zones(3)))
    lose(sim, "b")
    await sim.until(lambda: sim.status().health is Health.DEGRADED, within=30, what="it is told")
    await sim.until(lambda: per_zone(sim) == {"a": 3, "c": 3}, within=60, what="rebuilt all the same")
    await sim.settle()
    status = sim.status()
    assert (status.health, status.reason) == (Health.DEGRADED, Reason.TOO_FEW_ZONES)
    assert status.message == "placement.zones.min is 3, and usable are a, c (b gone)"
    sim.push(spec("v2", placement=zones(3)))
    await sim.run(60)
    status = sim.status()
    assert (status.phase, status.health, status.reason) == (Phase.BLOCKED, Health.DEGRADED, Reason.TOO_FEW_ZONES)
    assert sim.weights() == {"v1": 100}
    assert {key.revision for key, _ in sim.watch.applications("chat")} == {"v1"}
    give_back(sim, "b")
    await sim.until(lambda: sim.memory().stable == "v2", within=900, what="the rollout goes on")
    await sim.settle()
    assert per_zone(sim) == {"a": 2, "b": 2, "c": 2}
    assert sim.status().health is Health.HEALTHY


async def test_a_rollout_that_lost_a_zone_it_needs_stands_still_and_may_be_taken_back() -> None:
    sim = over_zones("a", "b", "c")
    ways: dict[str, Any] = {"placement": zones(3)}
    await deployed(sim, spec(**ways))
    sim.push(spec("v2", **ways))
    await sim.until(lambda: sim.weights().get("v2", 0) >= 34, what="a third")
    lose(sim, "b")
    await sim.run(120)
    assert sim.status().reason is Reason.TOO_FEW_ZONES
    assert 0 < sim.weights()["v2"] < 67
    assert await sim.order("abort") == ""
    await sim.until(lambda: sim.weights() == {"v1": 100}, within=60, what="the way back")
    await sim.settle()
    assert (sim.memory().stable, sim.memory().candidate) == ("v1", None)


async def test_a_first_deployment_waits_for_its_zones() -> None:
    sim = over_zones("a", "b")
    await sim.start()
    sim.push(spec(placement=zones(3)))
    await sim.run(60)
    status = sim.status()
    assert (status.phase, status.health, status.reason) == (Phase.BLOCKED, Health.MISSING, Reason.TOO_FEW_ZONES)
    assert sim.watch.applications("chat") == []
    sim.nodes.add(make_node(7, "c", cpus=100))
    await sim.until(lambda: per_zone(sim) == {"a": 2, "b": 2, "c": 2}, within=120, what="all three zones")


async def test_a_first_deployment_that_has_begun_goes_on_in_fewer_zones() -> None:
    sim = over_zones("a", "b", "c")
    await sim.start()
    sim.push(spec(placement=zones(3)))
    await sim.until(lambda: bool(sim.watch.applications("chat")), within=30, what="it has begun")
    lose(sim, "b")
    await sim.until(lambda: sim.memory().stable == "v1", within=300, what="it serves")
    await sim.run(60)
    assert per_zone(sim) == {"a": 3, "c": 3}
    assert (sim.status().health, sim.status().reason) == (Health.DEGRADED, Reason.TOO_FEW_ZONES)


async def test_only_included_zones_are_used_also_when_one_of_them_is_lost() -> None:
    sim = over_zones("a", "b", "c", "d")
    await deployed(sim, spec(placement=zones(include=("a", "c"))))
    assert per_zone(sim) == {"a": 3, "c": 3}
    assert [found.zone for found in sim.status().zones] == ["a", "c"]
    lose(sim, "c")
    await sim.until(lambda: per_zone(sim) == {"a": 6}, within=120, what="rebuilt where it may be")
    await sim.settle()


@pytest.mark.parametrize(("size", "least"), [({"Echo": 6, "Backend": 2}, "Backend"), (2, "Echo")])
async def test_a_zone_that_counts_leave_out_is_told_with_its_reason(size: Any, least: str) -> None:
    sim = over_zones("a", "b", "c")
    await deployed(sim, spec(size=size))
    ((zone, why),) = unused(sim).items()
    assert zone not in per_zone(sim)
    assert why == f"{least} has 2 replica(s), and each zone needs one"
    assert [found.state for found in sim.status().zones] == ["open"] * 3


async def test_a_lost_zone_is_told_with_its_reason() -> None:
    sim = over_zones("a", "b", "c")
    await deployed(sim, spec())
    assert unused(sim) == {}
    lose(sim, "b")
    await sim.until(lambda: per_zone(sim) == {"a": 3, "c": 3}, within=60, what="rebuilt")
    await sim.settle()
    assert unused(sim) == {"b": "no node there takes replicas, or not for long enough yet"}


async def test_without_a_zone_of_its_own_a_node_is_not_used() -> None:
    sim = over_zones("a", "b", nodes=1)
    sim.nodes.add(make_node(7, None, cpus=100))
    await deployed(sim, spec(size=4))
    assert per_zone(sim) == {"a": 2, "b": 2}


@pytest.mark.parametrize("size", [3, 4, 5, 7])
@pytest.mark.parametrize("way", [{"surge": 1}, {"surge": 0, "unavailable": 1}, {"surge": "100%"}], ids=str)
async def test_no_step_of_a_rollout_a_rollback_or_a_change_of_size_is_in_fewer_zones(
    size: int, way: dict[str, Any]
) -> None:
    sim = over_zones("a", "b", "c")
    placement: Placement = zones(2)
    await deployed(sim, spec(size=size, placement=placement, **way))
    fewest = [3]
    sim.watch.further.append(lambda tick: fewest.append(len(per_zone(sim))))
    sim.push(spec("v2", size=size, placement=placement, **way))
    await sim.settle()
    sim.push(spec("v3", size=size, placement=placement, **way))
    await sim.until(lambda: sim.weights().get("v3", 0) >= 34, what="a third")
    assert await sim.order("abort") == ""
    await sim.settle()
    sim.push(spec("v2", size=size + 3, placement=placement, **way))
    await sim.settle()
    assert (sim.memory().stable, sum(per_zone(sim).values())) == ("v2", size + 3)
    assert min(fewest) >= 2


async def rolled_out_without_surge(size: dict[str, int]) -> None:
    sim = over_zones("a", "b", "c")
    ways: dict[str, Any] = {"size": size, "surge": 0, "unavailable": 1}
    await deployed(sim, spec(**ways))
    sim.push(spec("v2", **ways))
    await sim.settle()
    assert sim.memory().stable == "v2", sim.describe()


@pytest.mark.parametrize("echoes", [3, 4, 5, 6])
@pytest.mark.parametrize("backends", [2, 4])
async def test_without_any_surge_a_rollout_of_two_deployments_arrives(echoes: int, backends: int) -> None:
    """Each cell holds what the next one waits for, and goes as a whole."""
    await rolled_out_without_surge({"Echo": echoes, "Backend": backends})
