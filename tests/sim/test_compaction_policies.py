"""Compaction policies of other packages: they choose among the nodes that may go, and when; nothing else is theirs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import policies.compaction.situation
import reconciler.compaction
from policies.compaction.situation import Situation
from reconciler.errors import Retry
from specs.compaction import CompactionStatus
from specs.wishes import Prefer, Stand
from specs.world import World
from tests.sim.compacting import SETTINGS, Compacting, spec
from tests.sim.fake_advisers import hostile
from tests.sim.test_compaction import a_busy_day
from tests.sim.test_policies import always

ASKING = replace(SETTINGS, policy="night")


def asking(*cpus: float, says: object, **settings: Any) -> Compacting:
    """Return a simulation whose ClusterPolicy names a policy that always says the same."""
    work = Compacting(*cpus, settings=replace(ASKING, **settings))
    tells(work, says)
    return work


def tells(work: Compacting, answer: object) -> None:
    work.sim.advisers.policies["compaction.night"] = always(answer)


async def shown(work: Compacting) -> CompactionStatus:
    assert work.compactor is not None
    return await work.compactor.plan()


async def test_what_is_to_be_left_alone_stays_and_the_plan_says_for_whom() -> None:
    work = asking(4, 4, 4, 4, says=Prefer(keep=("node3", "node4"), message="their disks are warm"))
    await work.start(spec(size=4))
    await work.until(lambda: work.state == "Compact")
    assert sorted(node.id for node in work.sim.nodes.usable()) == ["node3", "node4"]
    plan = await shown(work)
    assert plan.policy == "compaction.night"
    assert plan.wish == "keep 2 node(s): their disks are warm"
    why = {node.node: node.why for node in plan.nodes}
    assert {why[node] for node in ("node3", "node4")} == {"policy night keeps it: their disks are warm"}
    told = [event.message for event in work.sim.store._events if event.kind == "NodeDrainBegun"]
    assert all(text.endswith(", with the wishes of policy night: their disks are warm") for text in told)


@pytest.mark.parametrize("first", [("node4", "node2"), ("node1", "node4"), ("node3", "node1")])
async def test_what_is_to_go_first_goes_first(first: tuple[str, ...]) -> None:
    prices = dict.fromkeys(first, 2.0)
    work = asking(4, 4, 4, 4, says=Prefer(first=first, prices=prices))
    await work.start(spec(size=4))
    await work.until(lambda: work.state == "Compact")
    assert tuple(work.drains.asked[:2]) == first
    assert work.least == {"chat": 4}


async def test_nodes_may_count_for_something_else_but_a_saving_is_one_by_the_cluster_policy() -> None:
    work = asking(4, 4, 4, says=Prefer(prices={"node2": 1000.0}))
    await work.start(spec(size=3))
    await work.until(lambda: bool(work.drains.asked))
    plan = await shown(work)
    assert {node.node: node.price for node in plan.nodes}["node2"] == 1000.0
    await work.until(lambda: work.state == "Compact")
    assert "node2" in work.drains.asked

    work = asking(4, 4, 4, says=Prefer(prices={"node2": 1000.0}), min_saving=3)
    await work.start(spec(size=3))
    await work.run(60)
    assert (work.state, work.drains.asked) == ("Compact", [])


async def test_a_policy_says_when_and_a_person_goes_past_it() -> None:
    work = asking(4, 4, 4, says=Stand(message="not by day"))
    await work.start(spec(size=3))
    await work.run(60)
    assert work.compactor is not None
    assert (work.state, work.compactor.status.message) == ("Waiting", "policy night: not by day")
    assert work.drains.asked == []
    assert sum(node.goes for node in (await shown(work)).nodes) == 2, "what could go is shown all the same"
    await work.compactor.order("ada")
    await work.until(lambda: "CompactionDone" in work.kinds())
    assert work.alive == 1


@pytest.mark.parametrize(
    "answer", [None, {"prefer": {"prices": {"node1": 0}}}, {"aim": {"weight": 1}}, Retry("no answer within 5 s")]
)
async def test_one_that_fails_begins_nothing_and_what_was_begun_goes_on(answer: object) -> None:
    work = asking(4, 4, 4, says=Prefer())
    await work.start(spec(size=3))
    await work.until(lambda: len(work.drains.asked) == 1)
    tells(work, answer)
    await work.until(lambda: "NodeFreed" in work.kinds())
    await work.run(120)
    assert (work.state, len(work.drains.asked)) == ("Waiting", 1)
    assert work.compactor is not None
    assert work.compactor.status.message.startswith("policy compaction.night fails: ")
    assert work.kinds().count("PolicyFailed") == 1
    await work.run(300)
    assert work.kinds().count("PolicyFailed") == 2, "it is told of once in five minutes"
    await work.compactor.order("ada")
    await work.until(lambda: "CompactionDone" in work.kinds())
    assert work.alive == 1


async def test_one_that_nobody_enabled_begins_nothing_and_says_what_there_is() -> None:
    work = asking(4, 4, 4, says=Prefer(), policy="nihgt")
    await work.start(spec(size=3))
    await work.run(30)
    assert work.compactor is not None
    assert (work.state, work.drains.asked) == ("Waiting", [])
    assert 'compaction.policy is "nihgt", which is not enabled: there are nodes, night.' in (
        work.compactor.status.message
    )


async def test_it_is_asked_with_what_compaction_sees() -> None:
    seen: list[Situation] = []

    def ask(world: World, situation: Situation) -> Stand:
        assert world.memory.services
        seen.append(situation)
        return Stand()

    work = asking(4, 4, says=None)
    work.sim.advisers.policies["compaction.night"] = ask
    await work.start(spec(size=2))
    await work.run(30)
    assert {machine.id for machine in seen[-1].problem.machines} == {"node1", "node2"}
    assert sum(seen[-1].replicas.values()) == 2


async def test_a_commit_that_comes_while_it_is_asked_ends_the_plan() -> None:
    work = asking(4, 4, 4, says=None)
    await work.start(spec(size=3))
    began = work.sim.clock.now()

    async def slow(policy: str, subjects: Any, world: World) -> dict[str, object]:
        if work.sim.clock.now() - began < timedelta(seconds=60):
            work.push(spec("v2", size=3))
            await work.sim.step()
        return {"": {"prefer": {}}}

    work.sim.advisers.consult = slow  # type: ignore[method-assign]
    await work.run(20)
    assert work.drains.asked == []


# -- hostile ones ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 40))])
async def test_a_hostile_policy_takes_no_replica_and_no_node_that_must_stay(seed: int) -> None:
    await a_busy_day(seed, foe=hostile(seed, "compaction"))


async def _hostile_days() -> None:
    for seed in range(4):
        await a_busy_day(seed, foe=hostile(seed, "compaction"))


def _freed_of_all_bonds(situation: Situation, wish: Prefer, policy: str) -> Situation:
    machines = tuple(replace(machine, kept="") for machine in situation.problem.machines)
    return replace(situation, problem=replace(situation.problem, machines=machines), first=wish.first)


def _as_wished(situation: Situation, freed: Any) -> float:
    return sum(situation.problem.machine[node].price for node in freed)


@pytest.mark.parametrize(
    ("module", "what", "value", "story"),
    [
        (reconciler.compaction, "preferred", _freed_of_all_bonds, _hostile_days),
        (
            policies.compaction.situation.Situation,
            "saved_by",
            _as_wished,
            test_nodes_may_count_for_something_else_but_a_saving_is_one_by_the_cluster_policy,
        ),
        (
            reconciler.compaction,
            "heard",
            lambda advice: advice.wish if isinstance(advice.wish, Prefer) else Prefer(),
            test_a_policy_says_when_and_a_person_goes_past_it,
        ),
    ],
)
async def test_a_broken_rule_is_found(
    module: Any, what: str, value: Any, story: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, what, value)
    with pytest.raises(AssertionError):
        await story()
