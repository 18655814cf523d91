"""Spot nodes and those that stay: the base stays, the rest is on spot, falls back and comes back without haste."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from specs.placement import Market, Placement, market_of
from tests.builders import market, zones
from tests.sim.codebook import Behaviour
from tests.sim.fake_nodes import make_node
from tests.sim.test_zones import deployed, give_back, per_zone, spec
from tests.sim.world import Simulation


def of_markets(*letters: str, spot: int = 2, stays: int = 1, cpus: float = 100.0) -> Simulation:
    """Return a simulation with so many spot nodes, and nodes that stay, in each zone."""
    sim = Simulation()
    kinds = [(zone, kind) for zone in letters for kind in ["spot"] * spot + [""] * stays]
    made = [make_node(n, zone, cpus=cpus, market=kind) for n, (zone, kind) in enumerate(kinds, start=1)]
    sim.nodes.nodes.clear()
    sim.nodes.nodes.update({node.id: node for node in made})
    sim.book.default = Behaviour(cpus=1.0)
    return sim


def on(base: int | str, *, spread: bool = True, prefer: str = "spot", **options: Any) -> Placement:
    return market(base, prefer, zones(**options) if spread else None)


def per_market(sim: Simulation, deployment: str = "Echo") -> dict[str, int]:
    """Return the running replicas per market, over all revisions."""
    found: Counter[str] = Counter(dict.fromkeys(Market, 0))
    for _, app in sim.watch.applications("chat"):
        for replica in app.deployments[deployment].replicas if deployment in app.deployments else ():
            if replica.state == "RUNNING" and replica.node:
                found[market_of(sim.nodes.nodes[replica.node].labels)] += 1
    return {str(name): count for name, count in found.items()}


def spot_nodes(sim: Simulation, zone: str = "") -> list[str]:
    return [n.id for n in sim.nodes.nodes.values() if market_of(n.labels) is Market.SPOT and zone in ("", n.zone)]


def reclaim(sim: Simulation, *nodes: str) -> None:
    """Take spot nodes away without notice."""
    sim.watch.excused()
    for node in nodes:
        sim.nodes.kill(node)


async def test_the_base_is_on_nodes_that_stay_and_the_rest_on_spot_even_over_zones() -> None:
    sim = of_markets("a", "b", "c")
    await deployed(sim, spec(size=7, placement=on(2)))
    assert per_market(sim) == {"spot": 5, "on-demand": 2}
    assert sorted(per_zone(sim).values()) == [2, 2, 3]
    assert [(one.market, one.ready, one.message) for one in sim.status().markets] == [
        ("spot", 5, ""),
        ("on-demand", 2, ""),
    ]


async def test_four_zones_of_two_markets_are_eight_cells() -> None:
    sim = of_markets("a", "b", "c", "d")
    await deployed(sim, spec(size=12, placement=on(4)))
    assert len(sim.watch.applications("chat")) == 8
    assert per_zone(sim) == dict.fromkeys("abcd", 3)
    sim.push(spec("v2", size=12, placement=on(4)))
    await sim.settle()
    assert sim.memory().stable == "v2"
    assert per_market(sim) == {"spot": 8, "on-demand": 4}


async def test_a_rollout_and_a_rollback_keep_the_base() -> None:
    sim = of_markets("a", "b")
    await deployed(sim, spec(size=6, placement=on(2)))
    stays: list[int] = []
    sim.watch.further.append(lambda tick: stays.append(per_market(sim)["on-demand"]))
    sim.push(spec("v2", size=6, placement=on(2)))
    await sim.settle()
    assert sim.memory().stable == "v2"
    assert per_market(sim) == {"spot": 4, "on-demand": 2}
    assert min(stays) >= 1
    sim.push(spec("v3", size=6, placement=on(2)))
    await sim.until(lambda: sim.weights().get("v3", 0) >= 34, what="a third")
    assert await sim.order("abort") == ""
    await sim.settle()
    assert sim.memory().stable == "v2"
    assert per_market(sim) == {"spot": 4, "on-demand": 2}


async def test_what_spot_nodes_held_falls_back_and_comes_back_without_haste() -> None:
    sim = of_markets("a", "b")
    await deployed(sim, spec(size=6, placement=on(2)))
    reclaim(sim, *spot_nodes(sim))
    await sim.until(lambda: per_market(sim) == {"spot": 0, "on-demand": 6}, within=120, what="fallen back")
    await sim.settle()
    assert "no node there takes replicas" in next(one.message for one in sim.status().markets if one.market == "spot")
    for zone in "ab":
        give_back(sim, zone)
    await sim.run(100)
    assert per_market(sim)["spot"] == 0, "it came back in haste"
    lows: list[int] = []
    sim.watch.further.append(lambda tick: lows.append(sim.serve.serving("chat", "Echo")))
    await sim.until(lambda: per_market(sim) == {"spot": 4, "on-demand": 2}, within=600, what="back on spot")
    assert min(lows) >= 6
    await sim.settle()


async def test_spot_nodes_without_room_leave_the_rest_to_those_that_stay() -> None:
    sim = of_markets(spot=1, stays=1)
    sim.nodes.add(make_node(1, "a", cpus=2, market="spot"))
    sim.nodes.add(make_node(2, "a", cpus=100))
    await deployed(sim, spec(size=6, placement=on(1, spread=False), surge=1))
    await sim.until(lambda: per_market(sim) == {"spot": 2, "on-demand": 4}, within=300, what="the rest elsewhere")
    sim.nodes.add(make_node(3, "a", cpus=100, market="spot"))
    await sim.until(lambda: per_market(sim) == {"spot": 5, "on-demand": 1}, within=1500, what="back on spot")


async def test_a_base_without_nodes_that_stay_is_on_spot_rather_than_nowhere() -> None:
    sim = of_markets("a", stays=0)
    await deployed(sim, spec(size=4, placement=on(2, spread=False)))
    assert per_market(sim) == {"spot": 4, "on-demand": 0}
    sim.nodes.add(make_node(9, "a", cpus=100))
    await sim.until(lambda: per_market(sim) == {"spot": 2, "on-demand": 2}, within=300, what="the base is back")


async def test_markets_may_be_chosen_changed_and_left_out_again() -> None:
    sim = of_markets("a", "b")
    await deployed(sim, spec(placement=Placement()))
    for placement, wanted in (
        (on(2, spread=False), {"spot": 4, "on-demand": 2}),
        (on("50%"), {"spot": 3, "on-demand": 3}),
        (on(0), {"spot": 6, "on-demand": 0}),
        (on(0, prefer="on-demand"), {"spot": 0, "on-demand": 6}),
    ):
        sim.push(spec(placement=placement))
        await sim.settle()
        assert per_market(sim) == wanted, placement
    sim.push(spec(placement=zones()))
    await sim.settle()
    assert {cell.key.market for cell in sim.memory().cells_of("v1")} == {None}


async def test_a_lost_zone_takes_its_markets_with_it() -> None:
    sim = of_markets("a", "b", "c")
    await deployed(sim, spec(placement=on(3)))
    reclaim(sim, *[node.id for node in sim.nodes.nodes.values() if node.zone == "b"])
    await sim.until(lambda: per_zone(sim) == {"a": 3, "c": 3}, within=120, what="rebuilt")
    await sim.settle()
    assert per_market(sim) == {"spot": 3, "on-demand": 3}


async def test_the_base_of_an_autoscaled_service_does_not_scale() -> None:
    sim = of_markets("a")
    await deployed(sim, spec(size=(4, 12), placement=on(1, spread=False)))
    assert sorted(bounds_by_market(sim).items()) == [("on-demand", (1, 1)), ("spot", (3, 11))]


def bounds_by_market(sim: Simulation) -> dict[str, tuple[int, int]]:
    """Return lower and upper bounds per market, all zones together."""
    found: dict[str, tuple[int, int]] = {}
    for key, app in sim.watch.applications("chat"):
        bounds = app.deployments["Echo"].bounds if "Echo" in app.deployments else None
        if not app.is_deleting and bounds is not None:
            low, high = found.get(str(key.market), (0, 0))
            found[str(key.market)] = (low + bounds["min_replicas"], high + bounds["max_replicas"])
    return found


SHARES = [
    ("a", (4, 12), "25%", {"on-demand": (1, 3), "spot": (3, 9)}),
    ("ab", (8, 24), "25%", {"on-demand": (2, 6), "spot": (6, 18)}),
    ("abc", (6, 14), "50%", {"on-demand": (3, 7), "spot": (3, 7)}),
    ("a", (1, 5), "50%", {"on-demand": (1, 5)}),
    ("a", (4, 12), "100%", {"on-demand": (4, 12)}),
]


@pytest.mark.parametrize(("letters", "size", "base", "wanted"), SHARES)
async def test_a_percentage_is_of_both_bounds_of_an_autoscaled_service(
    letters: str, size: tuple[int, int], base: str, wanted: dict[str, tuple[int, int]]
) -> None:
    sim = of_markets(*letters)
    await deployed(sim, spec(size=size, placement=on(base)))
    assert bounds_by_market(sim) == wanted
    sim.push(spec("v2", size=size, placement=on(base)))
    await sim.settle()
    assert sim.memory().stable == "v2"
    await sim.until(lambda: bounds_by_market(sim) == wanted, within=120, what="the new revision has the same bounds")


async def test_an_autoscaled_service_without_spot_nodes_in_a_zone_has_the_same_count_and_its_whole_range() -> None:
    sim = of_markets("a", "b")
    await deployed(sim, spec(size=(4, 12), placement=on("25%")))
    reclaim(sim, *spot_nodes(sim, "b"))
    # The base is what is on demand in zone b: it has two replicas there, as it has in the other zone on spot.
    wanted = {"spot": (2, 6), "on-demand": (2, 6)}
    await sim.until(lambda: bounds_by_market(sim) == wanted, within=300, what="divided anew")
    await sim.settle()
    assert per_market(sim) == {"spot": 2, "on-demand": 2}


@pytest.mark.parametrize("size", [{"Echo": 6, "Backend": 2}, {"Echo": 5, "Backend": 3}])
async def test_several_deployments_go_together(size: dict[str, int]) -> None:
    sim = of_markets("a", "b")
    await deployed(sim, spec(size=size, placement=on(1)))
    sim.push(spec("v2", size=size, placement=on(1)))
    await sim.settle()
    assert sim.memory().stable == "v2"
    assert per_market(sim, "Backend")["on-demand"] >= 1
    assert per_market(sim, "Backend")["spot"] >= 1
