"""What a plan predicts is what then happens: peaks, restarts, order and time, over many random changes."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import pytest

import reconciler.planning.preview
from reconciler.planning.moment import Surroundings
from reconciler.planning.pace import Pace
from reconciler.planning.preview import Question, predict
from specs.desired import ClusterSettings, Desired, DesiredService, PruneSettings
from specs.predicted import Ending, PredictedService, Prediction
from tests.builders import GATEWAY_URL, amount, service, steps
from tests.sim.serve_model import Timing
from tests.sim.world import Simulation

COURSE = ("RolloutStarted", "CellCreated", "StepEntered", "Promoted", "CellRetired", "Removed", "Removing")
"""Kinds of events whose order is a rollout's course."""

DRAIN, BUILD, START, ANSWER = 30, 4, 2, 9
PACE = Pace(
    build=timedelta(seconds=BUILD),
    start=timedelta(seconds=START + 1),  # Until a look shows it, as in what is learned from the last rollouts.
    stop=timedelta(seconds=DRAIN),
    answer=timedelta(seconds=ANSWER),
)
PRUNE = ClusterSettings(prune=PruneSettings(enabled=True, max_services=9, max_fraction=amount("100%")))


def spec(name: str, version: str, echo: int = 3, **ways: object) -> DesiredService:
    args = {"build_seconds": BUILD, "start_seconds": START}
    options = {"surge": 1, "steps": steps(20, "20", 50), "scale_down": 5, "max_request": 20, **ways}
    return service(name, version, {"Echo": echo}, args=args, **options)


@dataclass(kw_only=True)
class Compared:
    """A prediction, and the simulation that then went that way."""

    predicted: Prediction
    sim: Simulation
    seen: Mapping[str, list[str]]
    """Kinds of the events of each service's course, in their order."""
    lost: Mapping[str, int]
    """Replicas that ran before and are gone."""
    took: float

    def of(self, name: str) -> PredictedService:
        return next(one for one in self.predicted.services if one.name == name)

    def peak(self, name: str) -> int:
        """Return the most live replicas of the first deployment since the push."""
        return self.sim.serve.peak(name, "Echo")


async def settled(*services: DesiredService, cpus: float = 100.0) -> Simulation:
    sim = Simulation(timing=Timing(drain=timedelta(seconds=DRAIN)), cpus=cpus)
    sim.watch.requests.durations = (ANSWER, ANSWER)
    sim.push(*services, settings=PRUNE)
    await sim.settle()
    return sim


def prediction(sim: Simulation, *services: DesiredService, settings: ClusterSettings = PRUNE) -> Prediction:
    assert sim.tick is not None
    assert sim.tick.world.desired is not None
    commit = sim.tick.world.desired.commit
    wanted = Desired(commit=commit, services=services, errors=(), settings=settings)
    names = {one.name for one in services} | sim.store._services.keys()
    world = sim.tick.world
    question = Question(
        world=world,
        desired=wanted,
        surroundings=Surroundings(gateway_url=GATEWAY_URL),
        paces=dict.fromkeys(names, PACE),
    )
    return predict(question)


def running(sim: Simulation, name: str) -> set[str]:
    return {
        replica.id
        for key, found in sim.watch.applications(name)
        for deployment in found.all_deployments
        for replica in deployment.replicas
        if replica.state == "RUNNING"
    }


async def compared(sim: Simulation, *services: DesiredService, settings: ClusterSettings = PRUNE) -> Compared:
    """Predict a push, then push."""
    predicted = prediction(sim, *services, settings=settings)
    names = {one.name for one in services} | sim.store._services.keys()
    before = {name: running(sim, name) for name in names}
    told = len(sim.watch.events)
    sim.serve.samples.clear()
    since = sim.clock.now()
    sim.push(*services, settings=settings)
    await sim.run(3)
    await sim.until(lambda: all(map(sim.is_settled, names)), within=3000)
    seen = {
        name: [event.kind for event in sim.watch.events[told:] if event.service == name and event.kind in COURSE]
        for name in names
    }
    lost = {name: len(before[name] - running(sim, name)) for name in names}
    took = (sim.clock.now() - since).total_seconds()
    return Compared(predicted=predicted, sim=sim, seen=seen, lost=lost, took=took)


def course(one: PredictedService) -> list[str]:
    return [moment.kind for moment in one.moments if moment.kind in COURSE]


def check(found: Compared) -> None:
    """The prediction held: nothing higher, nobody else restarted, nothing in another order."""
    for one in found.predicted.services:
        name = one.name
        assert one.ending is Ending.DONE, one
        assert one.peak.get("Echo", 0) >= found.peak(name), name
        assert len(one.restarts) == found.lost[name], name
        assert course(one) == found.seen[name], name
    told = {one.name for one in found.predicted.services}
    assert {name for name, kinds in found.seen.items() if kinds} <= told
    assert {name for name, lost in found.lost.items() if lost} <= told


@pytest.mark.parametrize("seed", range(int(os.environ.get("HELIOSTAT_SEEDS", "7"))))
async def test_a_random_change_goes_as_predicted(seed: int) -> None:
    dice = random.Random(seed)
    ways = {
        name: {
            "surge": dice.choice([1, 1, 2, "50%"]),
            "steps": dice.choice([steps(20, "20", 50), steps(10, "15", 30, "15", 60), steps(), steps(50)]),
            "min_ready": dice.choice([0, 0, 5]),
        }
        for name in ("alpha", "beta", "gamma")
    }
    sizes = {name: dice.randrange(1, 6) for name in ways}
    sim = await settled(*(spec(name, "v1", sizes[name], **way) for name, way in ways.items()))
    wanted = []
    for name, way in ways.items():
        fate = dice.choice(["roll", "roll", "scale", "both", "stay", "go"])
        if fate == "go":
            continue
        size = sizes[name] + (dice.choice([-1, 1, 2]) if fate in ("scale", "both") else 0)
        wanted.append(spec(name, "v2" if fate in ("roll", "both") else "v1", max(1, size), **way))
    if dice.random() < 0.4:
        wanted.append(spec("delta", "v1", 2))
    check(await compared(sim, *wanted))


async def test_the_time_is_about_right() -> None:
    sim = await settled(spec("chat", "v1", 4))
    found = await compared(sim, spec("chat", "v2", 4))
    check(found)
    assert found.predicted.duration is not None
    assert found.predicted.duration.total_seconds() == pytest.approx(found.took, rel=0.2)
    assert found.of("chat").restarts
    assert sum(found.of("chat").zones.values()) == 4


async def test_services_that_stay_are_not_told_of() -> None:
    sim = await settled(spec("chat", "v1"), spec("other", "v1"))
    assert [one.name for one in prediction(sim, spec("chat", "v2"), spec("other", "v1")).services] == ["chat"]
    assert prediction(sim, spec("chat", "v1"), spec("other", "v1")).services == ()


async def test_nodes_without_room_are_told_before() -> None:
    sim = await settled(spec("chat", "v1", 3), cpus=0.1)
    tight = prediction(sim, spec("chat", "v2", 3))
    assert not tight.fits
    assert tight.unplaced[0].deployment == "Echo"
    assert tight.services[0].ending is not Ending.DONE
    assert tight.services[0].holds


async def test_what_waits_for_others_is_told_with_the_reason() -> None:
    one_at_a_time = ClusterSettings(max_services_moving=1)
    sim = await settled(spec("alpha", "v1"), spec("beta", "v1"))
    found = await compared(sim, spec("alpha", "v2"), spec("beta", "v2"), settings=one_at_a_time)
    check(found)
    held = [hold for hold in found.of("beta").holds if hold.reason == "ServicesMoving"]
    assert len(held) == 1
    assert held[0].lasts is not None
    assert held[0].lasts > timedelta(seconds=20)


async def test_a_removal_that_pruning_does_not_allow_is_not_predicted() -> None:
    sim = await settled(spec("alpha", "v1"), spec("beta", "v1"))
    assert prediction(sim, spec("alpha", "v1"), settings=ClusterSettings()).services == ()


async def test_steps_for_a_person_and_gates_are_assumed_and_said() -> None:
    sim = await settled(spec("chat", "v1", steps=steps(20, "", 50)))
    found = prediction(sim, spec("chat", "v2", steps=steps(20, "", 50)))
    assert found.services[0].ending is Ending.DONE
    assert "somebody promotes it" in found.assumptions[0]


async def test_in_the_middle_of_a_rollout_it_goes_on_from_there() -> None:
    sim = await settled(spec("chat", "v1", 4))
    sim.push(spec("chat", "v2", 4), settings=PRUNE)
    await sim.until(lambda: sim.weights().get("v2", 0) >= 20)
    going = prediction(sim, spec("chat", "v2", 4))
    assert course(going.services[0])[-2:] == ["Promoted", "CellRetired"]
    assert "RolloutStarted" not in course(going.services[0])
    check(await compared(sim, spec("chat", "v3", 4)))


async def test_what_would_take_too_long_to_work_out_is_told_as_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = await settled(spec("chat", "v1"))
    monkeypatch.setattr(reconciler.planning.preview, "MIN_TURNS", 5)
    monkeypatch.setattr(reconciler.planning.preview, "MAX_LOOKS", 10)
    found = prediction(sim, spec("chat", "v2"))
    assert found.services[0].ending is Ending.UNFINISHED
    assert found.duration is None


async def test_nothing_is_predicted_from_half_a_view() -> None:
    sim = await settled(spec("chat", "v1"))
    sim.ray_fails()
    await sim.run(2)
    blind = prediction(sim, spec("chat", "v2"))
    assert not blind.is_complete
    assert blind.problem


async def test_predicting_changes_nothing_and_says_the_same_twice() -> None:
    sim = await settled(spec("chat", "v1"))
    before = repr((sim.store._services, sim.serve.configs(), sim.gateway.table))
    first, second = prediction(sim, spec("chat", "v2")), prediction(sim, spec("chat", "v2"))
    assert first == second
    assert repr((sim.store._services, sim.serve.configs(), sim.gateway.table)) == before


async def test_a_prediction_that_forgets_stopping_replicas_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison bites."""
    original = reconciler.planning.preview.VirtualCluster.live

    def running_only(cluster: reconciler.planning.preview.VirtualCluster) -> Mapping[tuple[str, str], int]:
        return {key: max(0, count - 1) for key, count in original(cluster).items()}

    monkeypatch.setattr(reconciler.planning.preview.VirtualCluster, "live", running_only)
    sim = await settled(spec("chat", "v1", 4))
    found = await compared(sim, spec("chat", "v2", 4))
    with pytest.raises(AssertionError):
        check(found)
