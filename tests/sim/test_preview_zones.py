"""What a plan says of services over zones is what then happens: which zones, how many in each, and whether it fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest

from specs.desired import DesiredService
from specs.placement import Placement
from specs.predicted import Ending, PredictedService
from tests.builders import service, steps, zones
from tests.sim.codebook import Behaviour
from tests.sim.fake_nodes import make_node
from tests.sim.serve_model import Timing
from tests.sim.test_preview import ANSWER, BUILD, DRAIN, PRUNE, START, compared, course, prediction, running
from tests.sim.test_zones import give_back, lose, per_zone
from tests.sim.world import Simulation

CLOSE = 8
"""Seconds: a cell that leaves may have had its last request long before the others, or just now."""


def spec(version: str = "v1", size: Any = 6, placement: Placement | None = None, **ways: Any) -> DesiredService:
    sizes = size if isinstance(size, dict) else {"Echo": size}
    options = {"surge": 2, "steps": steps(34, "20", 67), "scale_down": 5, "max_request": 20, **ways}
    args = {"build_seconds": BUILD, "start_seconds": START}
    needs = {"num_cpus": 1}
    return service("chat", version, sizes, args=args, options=needs, placement=placement or zones(), **options)


async def settled(wanted: DesiredService, cpus: Iterable[float] = (100, 100, 100)) -> Simulation:
    """Return a simulation with one node per zone, of so many CPUs, on which a service has come to rest."""
    sim = Simulation(timing=Timing(drain=timedelta(seconds=DRAIN)))
    sim.watch.requests.durations = (ANSWER, ANSWER)
    sim.nodes.nodes.clear()
    for number, (zone, size) in enumerate(zip("abc", cpus, strict=True), start=1):
        sim.nodes.add(make_node(number, zone, cpus=size))
    sim.book.default = Behaviour(cpus=1.0)
    await sim.start()
    sim.push(wanted, settings=PRUNE)
    await sim.settle()
    return sim


def landed(sim: Simulation, before: set[str]) -> dict[str, int]:
    """Return how many replicas run per zone that did not run before."""
    found: Counter[str] = Counter()
    for _, app in sim.watch.applications("chat"):
        for deployment in app.all_deployments:
            for one in deployment.replicas:
                if one.state == "RUNNING" and one.id not in before:
                    found[sim.nodes.nodes[one.node].zone or "-"] += 1
    return dict(sorted(found.items()))


async def as_predicted(sim: Simulation, wanted: DesiredService, *, fits: bool = True) -> PredictedService:
    """Predict a push and push; return the prediction after holding it against what came of it.

    When cells go that nobody needs any more is beside the point: the moments of several differ by seconds.
    """
    before = running(sim, "chat")
    found = await compared(sim, wanted)
    told = found.of("chat")
    assert told.ending is Ending.DONE
    assert told.duration is not None
    assert told.duration.total_seconds() == pytest.approx(found.took, abs=CLOSE)
    assert told.peak["Echo"] >= found.peak("chat")
    assert len(told.restarts) == found.lost["chat"]
    assert ordered(course(told)) == ordered(found.seen["chat"])
    assert sorted(course(told)) == sorted(found.seen["chat"])
    assert found.predicted.fits is fits
    assert told.zones == landed(sim, before)
    return told


def ordered(kinds: list[str]) -> list[str]:
    return [kind for kind in kinds if kind != "CellRetired"]


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
async def test_a_rollout_comes_up_in_the_zones_that_were_told(size: int) -> None:
    sim = await settled(spec(size=size))
    found = await as_predicted(sim, spec("v2", size))
    assert sum(found.zones.values()) == size


async def test_of_two_deployments_too() -> None:
    sim = await settled(spec(size={"Echo": 5, "Backend": 2}))
    await as_predicted(sim, spec("v2", {"Echo": 5, "Backend": 2}))


@pytest.mark.parametrize(("before", "after"), [(3, 8), (8, 3), (2, 4), (6, 1)])
async def test_a_change_of_scale_too(before: int, after: int) -> None:
    sim = await settled(spec(size=before))
    await as_predicted(sim, spec(size=after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Placement(), zones()),
        (zones(), zones(exclude=("a",))),
        (zones(), Placement()),
        (zones(), zones(tolerate=True)),
    ],
    ids=["spread", "left", "gathered", "tolerant"],
)
async def test_a_change_of_zones_too(before: Placement, after: Placement) -> None:
    sim = await settled(spec(placement=before))
    await as_predicted(sim, spec(placement=after))


async def test_a_zone_that_is_allowed_again_is_told_as_used_though_it_is_not_believed_yet() -> None:
    sim = await settled(spec(placement=zones(exclude=("c",))))
    told = prediction(sim, spec()).services[0]
    before = running(sim, "chat")
    begun = sim.clock.now()
    sim.push(spec(), settings=PRUNE)
    await sim.until(lambda: per_zone(sim) == {"a": 2, "b": 2, "c": 2}, within=300, what="c is used")
    assert told.ending is Ending.DONE
    assert told.duration is not None
    assert told.duration.total_seconds() == pytest.approx((sim.clock.now() - begun).total_seconds(), abs=CLOSE)
    assert told.zones == landed(sim, before) == {"c": 2}
    assert len(told.restarts) == len(before - running(sim, "chat")) == 2


async def test_a_new_service_over_zones_too() -> None:
    sim = await settled(spec())
    other = service(
        "other",
        "v1",
        {"Echo": 4},
        args={"build_seconds": BUILD, "start_seconds": START},
        options={"num_cpus": 1},
        placement=zones(),
    )
    predicted = next(one for one in prediction(sim, spec(), other).services if one.name == "other")
    assert predicted.ending is Ending.DONE
    sim.push(spec(), other, settings=PRUNE)
    await sim.settle()
    assert sorted(predicted.zones.values()) == [1, 1, 2]
    zone_of = {node.id: node.zone for node in sim.nodes.nodes.values()}
    at = Counter(
        zone_of[one.node]
        for _, app in sim.watch.applications("other")
        for deployment in app.all_deployments
        for one in deployment.replicas
    )
    assert predicted.zones == at


async def test_a_full_zone_is_told_of_and_its_share_of_the_surge_moves() -> None:
    """Zone c holds what it has, and no replica more."""
    sim = await settled(spec(), cpus=(100, 100, 2))
    told = await as_predicted(sim, spec("v2"), fits=False)
    assert told.zones["c"] <= 2


async def test_a_lost_zone_gets_nothing() -> None:
    sim = await settled(spec())
    lose(sim, "b")
    await sim.until(lambda: per_zone(sim) == {"a": 3, "c": 3}, within=90, what="rebuilt")
    await sim.settle()
    found = await as_predicted(sim, spec("v2"))
    assert set(found.zones) == {"a", "c"}
    give_back(sim, "b")


async def test_a_surge_that_fits_in_no_zone_is_told_with_what_it_needs() -> None:
    sim = await settled(spec(), cpus=(2, 2, 2))
    tight = prediction(sim, spec("v2"))
    told = tight.services[0]
    assert not tight.fits
    assert (tight.unplaced[0].deployment, tight.unplaced[0].needs) == ("Echo", {"CPU": 1.0})
    assert told.ending is not Ending.DONE
    sim.push(spec("v2"), settings=PRUNE)
    await sim.run(300)
    assert sim.memory().stable == "v1"
    assert {hold.reason for hold in told.holds if hold.lasts is None} == {sim.status().reason}
