"""Compaction in virtual time: nodes are freed one by one, and nobody ever serves less for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

import policies.compaction.steps
from policies.compaction.problem import Answer, Problem
from reconciler.errors import PortError, Retry, Stalled
from specs.compaction import Holding
from specs.windows import read_window
from tests.builders import zones
from tests.sim.compacting import SETTINGS, Compacting, spec
from tests.sim.fake_advisers import Policy
from tests.sim.fake_nodes import make_node
from tests.sim.test_zones import per_zone

ONCE = replace(SETTINGS, enabled=False)
HELD = "node2"


async def test_a_spread_out_service_is_packed_onto_the_nodes_that_it_needs() -> None:
    work = Compacting(4, 4, 4, 4, 4, 4)
    await work.start(spec(size=6))
    assert work.alive == 6
    await work.until(lambda: work.state == "Compact")
    # Six replicas, and room for one more: two nodes of four.
    assert work.alive == 2
    assert work.least == {"chat": 6}
    assert work.most_draining == 1
    assert work.kinds().count("NodeFreed") == 4
    assert len(work.provider.released) == 4


async def test_who_has_not_seen_the_cluster_yet_looks_again_soon() -> None:
    work = Compacting(4, 4)
    await work.start(spec(size=8))
    await work.run(5)
    assert work.compactor is not None
    assert not await work.compactor.turn()
    seen, work.sim.tick = work.sim.tick, None
    assert await work.compactor.turn()
    work.sim.tick = seen
    work.sim.clock.jump(timedelta(minutes=5))
    assert await work.compactor.turn()
    assert work.state == "Blind"


async def test_a_plan_for_another_moment_is_made_again_without_a_rest() -> None:
    work = Compacting(4, 4, 4, settings=ONCE)
    await work.start(spec(size=3))
    await work.run(30)
    assert work.compactor is not None
    plan, problems = work.planner.plan, list[Problem]()

    async def planned_while_somebody_drains(problem: Problem) -> Answer:
        problems.append(problem)
        answer = await plan(problem)
        if not any(node.is_draining for node in work.sim.nodes.nodes.values()):
            work.sim.nodes.drain(answer.moves[0].target)
            await work.sim.step()
        return answer

    work.planner.plan = planned_while_somebody_drains  # type: ignore[method-assign]
    await work.compactor.order("ada")
    assert await work.compactor.turn()
    assert work.compactor.status.message == "the cluster changed while the plan was made"
    assert work.drains.asked == []
    await work.compactor.turn()
    assert len(problems) == 2
    assert not all(machine.takes for machine in problems[1].machines)


async def test_what_changes_elsewhere_while_the_plan_is_made_holds_no_node_up() -> None:
    work = Compacting(4, 4, 4, settings=ONCE)
    await work.start(spec(size=3))
    await work.run(30)
    assert work.compactor is not None
    plan = work.planner.plan

    async def planned_while_a_node_comes(problem: Problem) -> Answer:
        work.sim.nodes.add(make_node(len(work.sim.nodes.nodes) + 6, "a", cpus=4))
        await work.sim.step()
        return await plan(problem)

    work.planner.plan = planned_while_a_node_comes  # type: ignore[method-assign]
    await work.compactor.order("ada")
    await work.compactor.turn()
    assert len(work.drains.asked) == 1


async def test_so_many_nodes_at_once_as_the_policy_says() -> None:
    work = Compacting(4, 4, 4, 4, 4, 4, settings=replace(SETTINGS, max_nodes_at_once=2))
    await work.start(spec(size=6))
    await work.until(lambda: work.state == "Compact")
    assert (work.alive, work.most_draining, work.least) == (2, 2, {"chat": 6})


async def test_a_plan_is_only_shown_until_somebody_says_apply() -> None:
    work = Compacting(4, 4, 4, settings=ONCE)
    await work.start(spec(size=3))
    await work.run(60)
    assert (work.state, work.alive, work.drains.asked) == ("Off", 3, [])
    assert work.compactor is not None
    shown = await work.compactor.plan()
    assert sum(node.goes for node in shown.nodes) == 2
    assert work.drains.asked == []
    await work.compactor.order("ada")
    await work.until(lambda: "CompactionDone" in work.kinds())
    assert (work.alive, work.state) == (1, "Off")
    assert [event.by for event in work.sim.store._events if event.kind == "NodeFreed"] == ["ada", "ada"]


async def test_a_rollout_comes_first_and_the_rest_is_compacted_after_it() -> None:
    work = Compacting(4, 4, 4, 4, 4, 4)
    await work.start(spec(size=6))
    await work.until(lambda: len(work.drains.asked) == 1)
    work.push(spec("v2", size=6))
    await work.until(lambda: work.sim.memory().candidate == "v2")
    begun = len(work.drains.asked)
    while work.sim.memory().candidate or work.sim.memory().outgoing:
        await work.step()
        assert len(work.drains.asked) == begun, "a node was drained in the middle of a rollout"
    await work.until(lambda: work.state == "Compact")
    assert work.sim.memory().stable == "v2"
    assert work.alive == 2
    assert work.least["chat"] >= 6


async def test_a_sick_service_that_starts_on_ever_other_nodes_keeps_none_of_them() -> None:
    work = Compacting(4, 4, 4, 4, 4)
    await work.start(spec(size=4), spec(size=1, name="ill"))
    work.sim.book.sick.update(key.name for key, _ in work.sim.watch.applications("ill"))
    homes = set()
    for _ in range(30):
        await work.step()
        homes |= {replica.node for replica in work.replicas("ill") if replica.node}
    assert len(homes) > 2, "it wanders"
    await work.until(lambda: work.alive == 2, within=120)
    assert work.least["chat"] == 4
    work.sim.book.sick.clear()
    await work.until(lambda: work.serving("ill") == 1, within=60)


async def test_what_is_not_ours_and_who_does_not_want_to_keep_their_nodes() -> None:
    work = Compacting(4, 4, 4, 4)
    still = replace(spec(size=1, name="still"), may_be_moved=False)
    await work.start(spec(size=2), still)
    home = {replica.node for replica in work.replicas("still")}
    other = next(node for node in work.sim.nodes.nodes if node not in home)
    work.drains.foreign = (Holding(node=other, what="Trainer", resources={"CPU": 1}),)
    await work.until(lambda: work.state == "Compact")
    assert {node.id for node in work.sim.nodes.usable()} == {*home, other}
    assert work.compactor is not None
    why = {node.node: node.why for node in (await work.compactor.plan()).nodes}
    assert "Trainer, which is not Heliostat's" in why[other]
    assert "still has compaction.allow: false" in why[next(iter(home))]


async def test_nothing_begins_outside_of_the_hours() -> None:
    night = read_window("daily 02:00-03:00", is_allowed=True, zone="UTC")
    work = Compacting(4, 4, 4, settings=replace(SETTINGS, windows=(night,)))
    await work.start(spec(size=3))
    await work.run(120)
    assert (work.state, work.drains.asked) == ("Waiting", [])
    work.sim.clock.jump(timedelta(hours=2))
    await work.until(lambda: work.state == "Compact")
    assert work.alive == 1


async def test_a_service_that_has_just_been_scaled_is_waited_for() -> None:
    work = Compacting(4, 4, 4, settings=replace(SETTINGS, settle=timedelta(seconds=120)))
    await work.start(spec(size=3))
    work.push(spec(size=4))
    await work.run(100)
    assert work.drains.asked == []
    await work.until(lambda: work.state == "Compact")
    assert work.least["chat"] >= 3


async def test_a_drain_that_stalls_is_given_up_told_and_not_tried_again_at_once() -> None:
    work = Compacting(4, 4, 4)
    await work.start(spec(size=3))
    work.sim.book.default = replace(work.sim.book.default, start_time=timedelta(hours=1))
    for _, found in work.sim.watch.applications("chat"):
        for deployment in found.all_deployments:
            deployment.behaviour = work.sim.book.default
    await work.until(lambda: "NodeDrainGivenUp" in work.kinds())
    asked = list(work.drains.asked)
    await work.run(300)
    assert work.drains.asked == asked, "another node was begun while its replacements do not start"
    assert work.least["chat"] == 3


async def test_what_ray_refuses_is_given_up_and_another_node_is_tried_later() -> None:
    work = Compacting(4, 4, 4)
    await work.start(spec(size=3))
    work.drains.refused = "something that is not Heliostat's uses 1 CPU of it"
    await work.until(lambda: "NodeDrainGivenUp" in work.kinds())
    work.drains.refused = ""
    assert work.compactor is not None
    refused = work.compactor.status.given_up[0]
    assert "uses 1 CPU" in refused.why
    await work.until(lambda: work.state == "Compact")
    assert [node.id for node in work.sim.nodes.usable()] == [refused.node]
    work.sim.clock.jump(policies.compaction.steps.RETRY_AFTER)
    await work.run(5)
    assert work.compactor.status.given_up == ()


async def test_a_node_that_its_provider_keeps_is_never_drained() -> None:
    work = Compacting(4, 4, 4)
    await work.start(spec(size=3))
    work.provider.never = {node.ip: "minReplicas is 3" for node in work.sim.nodes.nodes.values()}
    await work.run(120)
    assert (work.state, work.drains.asked) == ("Waiting", [])


async def test_a_provider_that_is_away_is_asked_again_and_one_that_refuses_is_told_of() -> None:
    work = Compacting(4, 4)
    await work.start(spec(size=2))
    await work.until(lambda: len(work.drains.asked) == 1)
    work.provider.problem = Retry("the Kubernetes API cannot be reached")
    await work.run(100)
    assert "NodeFreed" not in work.kinds()
    work.provider.problem = None
    await work.until(lambda: "NodeFreed" in work.kinds())

    work = Compacting(4, 4)
    await work.start(spec(size=2))
    await work.until(lambda: len(work.drains.asked) == 1)
    work.provider.problem = Stalled("Kubernetes answers 403")
    await work.until(lambda: "NodeDrainGivenUp" in work.kinds())
    assert "NodeFreed" not in work.kinds()


@pytest.mark.parametrize("problem", [Retry("the Kubernetes API cannot be reached"), Stalled("no rights")], ids=str)
async def test_nothing_is_emptied_while_its_provider_does_not_say_whether_it_takes_it_back(problem: PortError) -> None:
    work = Compacting(4, 4)
    await work.start(spec(size=2))
    work.provider.problem = problem
    await work.run(100)
    assert work.drains.asked == []
    work.provider.problem = None
    await work.until(lambda: "NodeFreed" in work.kinds())


async def test_blindness_begins_nothing() -> None:
    work = Compacting(4, 4, 4)
    await work.start(spec(size=3))
    work.sim.ray_fails()
    await work.run(60)
    assert (work.state, work.drains.asked) == ("Blind", [])
    work.sim.ray_mends()
    work.drains.problem = Retry("Ray cannot list its actors")
    await work.run(60)
    assert work.drains.asked == []
    work.drains.problem = None
    await work.until(lambda: work.state == "Compact")


async def test_load_that_rises_meanwhile_takes_no_replica_away() -> None:
    work = Compacting(2, 2, 2)
    await work.start(spec(size=3))
    await work.until(lambda: len(work.drains.asked) == 1)
    work.push(spec(size=6))
    await work.until(lambda: "NodeDrainGivenUp" in work.kinds())
    await work.run(120)
    assert work.least["chat"] == 3
    assert work.serving("chat") == 5, "the one that drains serves on, and four fill the other nodes"
    assert (len(work.drains.asked), work.provider.released) == (1, [])


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("save", range(1, 9))
async def test_a_kill_at_any_save_loses_nothing(side: str, save: int) -> None:
    work = Compacting(4, 4, 4)
    await work.start(spec(size=3))
    at = work.sim.store.saves + save
    setattr(work.sim.store, f"crash_{side}", at)
    await work.until(lambda: work.state == "Compact")
    assert work.alive == 1
    assert work.least["chat"] == 3
    assert work.compactor is not None
    assert work.compactor.freed == 2


async def a_busy_day(seed: int, *, brutal: bool = False, foe: Policy | None = None) -> Compacting:
    """Let commits, outages and crashes come at random; nobody may ever serve with fewer replicas than were wanted.

    A commit may ask for more than the nodes that compaction left can hold: then others are started. With a `foe` its
    wishes are asked for, too, and something that is not Heliostat's is on a node that it wants gone.
    """
    dice = Random(seed)
    work = Compacting(*(dice.choice([2, 4, 4, 6]) for _ in range(dice.randint(4, 7))), seed=seed, grows=True)
    if foe is not None:
        work.settings = replace(SETTINGS, policy="foe")
        work.sim.advisers.policies["compaction.foe"] = foe
        work.drains.foreign = (Holding(node=HELD, what="Trainer", resources={"CPU": 1}),)
    if brutal:
        work.drains.nodes.drain = work.drains.nodes.kill  # type: ignore[method-assign]
    sizes = {name: dice.randint(1, 3) for name in ("chat", "search", "rank")}
    versions = dict.fromkeys(sizes, 1)
    await work.start(*(spec(size=size, name=name) for name, size in sizes.items()))
    floors = dict(sizes)
    for second in range(600):
        if second % 60 == 30 and second < 400:
            _something_happens(dice, work, sizes, versions)
            floors = {name: min(floors[name], size) for name, size in sizes.items()}
        if second % 60 == 20:
            work.sim.ray_mends()
        await work.step()
        assert foe is None or HELD not in work.drains.asked, f"C1: {HELD} is drained, which holds what is not ours"
        assert work.most_draining <= SETTINGS.max_nodes_at_once, f"C2: {work.most_draining} drain at once"
        for name, floor in floors.items():
            assert work.serving(name) >= floor, f"{name} at {second}\n{work.sim.describe()}"
        if all(work.sim.is_settled(name) for name in sizes):
            floors = dict(sizes)
    work.sim.ray_mends()
    await work.until(
        lambda: all(map(work.sim.is_settled, sizes)) and work.state in ("Compact", "Waiting") and not work.draining
    )
    assert {name: work.serving(name) for name in sizes} == sizes
    return work


def _something_happens(dice: Random, work: Compacting, sizes: dict[str, int], versions: dict[str, int]) -> None:
    name = dice.choice(sorted(sizes))
    match dice.choice(["scale", "roll", "outage", "crash", "node"]):
        case "scale":
            sizes[name] = dice.randint(1, 3)
        case "roll":
            versions[name] += 1
        case "outage":
            work.sim.ray_fails()
        case "crash":
            work.compactor = None
        case "node":
            number = len(work.sim.nodes.nodes) + 1
            work.sim.nodes.add(make_node(number, "a", cpus=dice.choice([2, 4])))
    work.push(*(spec(f"v{versions[one]}", size=size, name=one) for one, size in sizes.items()))


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 60))])
async def test_whatever_happens_nobody_serves_less_for_it(seed: int) -> None:
    work = await a_busy_day(seed)
    assert work.compactor is not None
    assert work.compactor.freed > 0 or work.alive <= 4


async def _brutal_days() -> None:
    for seed in range(4):
        await a_busy_day(seed, brutal=True)


async def test_the_day_would_show_a_node_that_is_killed_instead_of_drained() -> None:
    with pytest.raises(AssertionError, match=r"(chat|search|rank) at"):
        await _brutal_days()


async def test_a_look_that_is_old_begins_nothing() -> None:
    work = Compacting(4, 4, 4)
    await work.start(spec(size=3))
    await work.step()
    compactor = work.compactor
    assert compactor is not None
    for _ in range(60):
        work.sim.clock.jump(timedelta(seconds=1))
        await compactor.turn()
    assert (work.state, work.drains.asked) == ("Blind", [])


async def test_an_order_in_the_middle_of_a_turn_loses_no_drain() -> None:
    work = Compacting(4, 4, 4, settings=replace(SETTINGS, max_nodes_at_once=2))
    await work.start(spec(size=3))
    await work.run(10)
    compactor = work.compactor
    assert compactor is not None
    original = work.drains.drain

    async def drain(node: str, expected: Mapping[str, float], why: str) -> None:
        await compactor.order("ada")
        await original(node, expected, why)

    work.drains.drain = drain  # type: ignore[method-assign]
    await work.until(lambda: work.state == "Compact")
    assert (work.alive, compactor.freed, work.drains.asked[0] in work.sim.nodes.nodes) == (1, 2, True)


async def test_what_changes_while_a_plan_is_made_ends_the_plan() -> None:
    work = Compacting(4, 4, 4)
    await work.start(spec(size=3))
    original = work.planner.plan

    async def plan(problem: Problem) -> Answer:
        answer = await original(problem)
        if work.sim.clock.now() - began < timedelta(seconds=60):
            work.push(spec("v2", size=3))
            await work.sim.step()
        return answer

    began = work.sim.clock.now()
    work.planner.plan = plan  # type: ignore[method-assign]
    await work.run(20)
    assert work.drains.asked == []


async def test_a_service_over_zones_stays_spread_while_its_nodes_are_emptied() -> None:
    work = Compacting(4, 4, 4, 4, 4, 4)
    await work.start(spec(size=6, placement=zones(least=3)))
    assert set(per_zone(work.sim).values()) == {2}
    await work.until(lambda: bool(work.drains.asked))
    while work.state != "Compact":
        await work.step()
        spread = [len([r for r in work.replicas() if r.is_serving and _zone(work, r.node) == zone]) for zone in "abc"]
        assert min(spread) >= 2, f"{spread}\n{work.sim.describe()}"
    assert sorted(node.zone or "" for node in work.sim.nodes.usable()) == ["a", "b", "c"]
    assert work.least == {"chat": 6}
    await work.run(300)
    assert set(per_zone(work.sim).values()) == {2}, work.sim.describe()


def _zone(work: Compacting, node: str) -> str | None:
    return work.sim.nodes.nodes[node].zone


async def test_an_autoscaled_service_is_left_alone_until_its_size_has_settled() -> None:
    work = Compacting(4, 4, 4, settings=replace(SETTINGS, settle=timedelta(seconds=60)))
    await work.start(spec(size={"Echo": (2, 8)}))
    for wanted in (6, 3, 5, 2):
        for key, _ in work.sim.watch.applications("chat"):
            work.sim.serve.want(key.name, "Echo", wanted)
        await work.run(45)
        assert work.drains.asked == []
    await work.until(lambda: work.state == "Compact")
    assert (work.alive, work.serving("chat")) == (1, 2)
