"""Somebody else writes to Serve: told field by field, put right ever more slowly, and in the end left to them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import reconciler.planning.plan
from policies.drift import MOST_FIGHTS, TRUCE
from specs.desired import ClusterSettings
from specs.reasons import Reason
from specs.status import Condition
from tests.builders import Sizes, service, steps
from tests.sim.world import Simulation

CELL = "chat.v1.-.-.0"
BOUNDED: Sizes = {"Echo": (2, 4)}


async def settled(sizes: Sizes | int = 3, *, heals: bool = True) -> Simulation:
    sim = Simulation()
    await sim.start()
    settings = replace(ClusterSettings(), self_heal=heals)
    sim.push(service("chat", "v1", sizes, steps=steps(50, "5"), scale_down=5, max_request=10), settings=settings)
    await sim.settle()
    return sim


def drifted(sim: Simulation) -> Condition:
    return next(condition for condition in sim.status().conditions if condition.type == "Drifted")


def told(sim: Simulation) -> list[str]:
    return [event.message for event in sim.events() if event.kind == "Drifted"]


def rewrite(sim: Simulation, change: Callable[[dict[str, Any]], None]) -> None:
    """PUT all applications as they are, ours with a change."""
    applications = [copy.deepcopy(dict(config)) for config in sim.serve.configs().values()]
    for application in applications:
        if application["name"] == CELL:
            change(application)
    sim.watch.excused()
    sim.serve.put_by_somebody_else(applications)


def bounds(low: int, high: int) -> Callable[[dict[str, Any]], None]:
    def change(application: dict[str, Any]) -> None:
        application["deployments"][0]["autoscaling_config"] |= {"min_replicas": low, "max_replicas": high}

    return change


async def scale(sim: Simulation, count: int) -> None:
    sim.watch.excused()
    await sim.serve.scale(CELL, "Echo", count)


async def test_a_changed_count_is_told_and_put_right() -> None:
    sim = await settled()
    await scale(sim, 2)
    await sim.settle()
    assert sim.counts() == {"v1": 3}
    (text,) = told(sim)
    assert text == f"somebody else changed it: num_replicas of Echo of {CELL} is 2, not 3; it is put right"
    assert drifted(sim).status == "False"


async def test_changed_bounds_are_told_one_by_one_and_put_right() -> None:
    sim = await settled(BOUNDED)
    rewrite(sim, bounds(1, 9))
    await sim.settle()
    assert [text.partition(";")[0] for text in told(sim)] == [
        f"somebody else changed it: max_replicas of Echo of {CELL} is 9, not 4",
        f"somebody else changed it: min_replicas of Echo of {CELL} is 1, not 2",
    ]
    config = sim.serve.configs()[CELL]["deployments"][0]["autoscaling_config"]
    assert (config["min_replicas"], config["max_replicas"]) == (2, 4)


async def test_changed_code_is_named_without_its_values_and_put_right() -> None:
    sim = await settled()
    rewrite(sim, lambda application: application["args"].update(password="hunter2"))
    await sim.settle()
    assert told(sim) == [f"somebody else changed it: args of {CELL} is not what was put; it is put right"]
    assert "hunter2" not in json.dumps(dict(sim.serve.configs()[CELL]))


async def test_an_application_under_our_name_that_is_not_ours_is_told_and_left_alone() -> None:
    sim = await settled()
    stranger = {**copy.deepcopy(dict(sim.serve.configs()[CELL])), "name": "chat.by-hand", "route_prefix": "/x"}
    ours = [dict(config) for config in sim.serve.configs().values()]
    sim.serve.put_by_somebody_else([*ours, stranger])
    await sim.run(5)
    assert "chat.by-hand is in Serve and not Heliostat's" in drifted(sim).message
    sim.push(service("chat", "v2", 3, steps=steps(50)))
    await sim.settle()
    assert "chat.by-hand" in sim.serve.configs()


async def test_with_self_heal_off_it_is_told_and_left() -> None:
    sim = await settled(heals=False)
    await scale(sim, 2)
    await sim.run(60)
    assert sim.counts() == {"v1": 2}
    assert [text.rpartition("; ")[2] for text in told(sim)] == ["selfHeal is off"]
    assert f"Echo of {CELL} has 2 replicas, not 3" in drifted(sim).message


async def fight(sim: Simulation, rewrites: Callable[[], Any], is_healed: Callable[[], bool], *, seconds: int) -> int:
    """Let another writer undo each repair at once; return how many repairs there were."""
    repairs = 0
    await rewrites()
    for _ in range(seconds):
        await sim.step()
        if is_healed():
            repairs += 1
            await rewrites()
    return repairs


async def test_who_changes_a_count_again_and_again_is_answered_more_slowly_and_then_left_alone() -> None:
    sim = await settled()
    repairs = await fight(sim, lambda: scale(sim, 2), lambda: sim.counts() == {"v1": 3}, seconds=400)
    assert repairs == MOST_FIGHTS
    times = [event.at for event in sim.events() if event.kind == "Drifted"]
    waits = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    assert waits == sorted(waits), "each repair waits longer than the one before"
    assert waits[-1] > 10
    status = sim.status()
    assert status.reason is Reason.DRIFTED
    assert f"num_replicas of Echo of {CELL} is 2, not 3; somebody else changed it 7 times" in status.message
    assert "is left as it is until" in status.message


async def test_a_fight_over_the_document_ends_too() -> None:
    sim = await settled(BOUNDED)

    async def rewrites() -> None:
        rewrite(sim, bounds(1, 9))

    puts = len(sim.serve.puts)
    await fight(sim, rewrites, lambda: _highest(sim) == 4, seconds=400)
    assert len(sim.serve.puts) - puts == MOST_FIGHTS
    assert _highest(sim) == 9
    # Another service's PUT does not reopen it.
    mine = sim.memory().wanted
    sim.push(mine, service("other", "v1", 1))
    await sim.run(30)
    assert _highest(sim) == 9
    assert len(sim.serve.puts) - puts == MOST_FIGHTS + 1


def _highest(sim: Simulation) -> int:
    return int(sim.serve.configs()[CELL]["deployments"][0]["autoscaling_config"]["max_replicas"])


async def test_a_truce_ends_by_itself_and_at_once_with_a_commit() -> None:
    for ends in ("time", "commit"):
        sim = await settled()
        await fight(sim, lambda sim=sim: scale(sim, 2), lambda sim=sim: sim.counts() == {"v1": 3}, seconds=300)  # type: ignore[misc]
        if ends == "commit":
            sim.push(service("chat", "v1", 3, steps=steps(60), scale_down=5, max_request=10))
        else:
            await sim.run(TRUCE.total_seconds() - 600)
            assert sim.counts() == {"v1": 2}
            await sim.run(600)
        await sim.run(5)
        assert sim.counts() == {"v1": 3}, ends


async def test_a_new_revision_rolls_out_in_the_middle_of_a_fight_and_is_not_blamed() -> None:
    sim = await settled()
    sim.push(service("chat", "v2", 3, steps=steps(50, "5"), scale_down=5, max_request=10, deadline=30))
    await sim.until(lambda: sim.counts().get("v2", 0) > 0)
    for _ in range(150):
        if sim.counts().get("v2", 0) > 0 and sim.memory().candidate == "v2":
            sim.watch.excused()
            await sim.serve.scale("chat.v2.-.-.0", "Echo", 0)
        await sim.step()
    assert not sim.memory().quarantine
    await sim.settle(within=6000)
    assert sim.weights() == {"v2": 100.0}


async def test_our_own_commands_that_did_not_arrive_are_nobody_s_drift() -> None:
    sim = await settled()
    sim.serve.write_outage = "Ray refuses"
    sim.push(service("chat", "v1", 5, steps=steps(50), scale_down=5, max_request=10))
    await sim.run(20)
    sim.serve.write_outage = ""
    await sim.settle()
    sim.push(service("chat", "v2", 2, steps=steps(50), scale_down=5, max_request=10))
    await sim.settle()
    assert told(sim) == []


@pytest.mark.parametrize("broken", ["never left", "never noticed"])
async def test_a_broken_rule_is_found(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    if broken == "never left":
        monkeypatch.setattr("policies.rollout.is_left", lambda view, cell, deployment: False)
    else:
        monkeypatch.setattr(reconciler.planning.plan, "notice", lambda world, name: ())
    with pytest.raises(AssertionError):
        await test_who_changes_a_count_again_and_again_is_answered_more_slowly_and_then_left_alone()
