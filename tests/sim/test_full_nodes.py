"""Nodes without room for the surge: blocked with numbers, or old replicas stop first; never wedged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.service
import reconciler.planning.perceive
from specs.memory import Outcome
from specs.reasons import Reason
from specs.status import Phase
from tests.builders import service, steps
from tests.sim.codebook import Behaviour
from tests.sim.crowds import Crowd, crowded, spec
from tests.sim.fake_nodes import make_node
from tests.sim.test_properties import lives
from tests.sim.world import Simulation


async def _blocked(sim: Simulation, **options: Any) -> None:
    await sim.start()
    sim.push(spec("v1", **options))
    await sim.settle()
    sim.push(spec("v2", **options))
    await sim.until(lambda: sim.status().reason is Reason.INSUFFICIENT_RESOURCES, within=90, what="blocked")


async def test_a_full_cluster_blocks_with_numbers_and_for_as_long_as_it_is_full() -> None:
    sim = crowded(2, 0.5)
    await _blocked(sim)
    assert sim.status().phase is Phase.BLOCKED
    assert "the fittest of 2 node(s) has 0.5 CPU of 1 CPU free" in sim.status().message
    await sim.run(300)
    assert sim.memory().candidate == "v2", "a deadline passed for want of room"
    assert sim.weights() == {"v1": 100.0}
    sim.nodes.add(make_node(3, "a", cpus=1))
    await sim.settle()
    assert sim.memory().stable == "v2"


async def test_a_newer_commit_goes_on_from_a_blocked_one() -> None:
    sim = crowded(2)
    await _blocked(sim)
    sim.push(spec("v1"))
    await sim.settle()
    assert sim.memory().stable == "v1"
    sim.push(spec("v3"))
    await sim.until(lambda: sim.memory().candidate == "v3", within=30, what="the newer commit is tried")
    sim.nodes.add(make_node(3, "a", cpus=1))
    await sim.settle()
    assert sim.memory().stable == "v3"


async def _stops_first() -> None:
    sim = crowded(1)
    await sim.start()
    sim.push(spec("v1", 1, unavailable=1))
    await sim.settle()
    sim.push(spec("v2", 1, unavailable=1))
    await sim.settle()
    assert sim.memory().stable == "v2", f"stable {sim.memory().stable}\n{sim.describe()}"
    assert "SurgeLimited" in [event.kind for event in sim.events()]


async def test_with_leave_to_be_short_old_replicas_stop_first() -> None:
    await _stops_first()


async def test_the_last_replica_of_an_autoscaled_service_is_not_stopped_first_for_it_cannot_be() -> None:
    sim, ways = crowded(1), {"steps": steps(50), "scale_down": 0, "max_request": 20, "unavailable": 1}
    await sim.start()
    sim.push(service("chat", "v1", {"Echo": (1, 2)}, **ways))
    await sim.settle()
    sim.push(service("chat", "v2", {"Echo": (1, 2)}, **ways))
    await sim.until(lambda: sim.status().reason is Reason.INSUFFICIENT_RESOURCES, within=90, what="blocked")
    await sim.run(60)
    assert sim.weights() == {"v1": 100.0}
    assert "SurgeLimited" not in [event.kind for event in sim.events()]
    sim.nodes.add(make_node(2, "a", cpus=1))
    await sim.settle()
    assert sim.memory().stable == "v2"


async def test_not_stopping_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.service, "stop_first", lambda view: ())
    with pytest.raises(AssertionError, match=r"not within|stable v1"):
        await _stops_first()


async def test_what_not_even_an_empty_node_could_hold_fails_at_its_deadline() -> None:
    sim = crowded(2)
    await sim.start()
    sim.push(spec("v1"))
    await sim.settle()
    greedy = spec("v2")
    sim.book.programs["greedy:app"] = Behaviour(cpus=9.0)
    template = greedy.revision.template.replace("app:build", "greedy:app")
    sim.push(replace(greedy, revision=replace(greedy.revision, template=template)))
    await sim.until(lambda: bool(sim.memory().quarantine), within=240, what="taken back")
    assert sim.memory().quarantine[0].reason is Reason.PROGRESS_DEADLINE_EXCEEDED


async def _patience(sim: Simulation) -> None:
    await _blocked(sim)
    await sim.run(300)
    assert not sim.memory().quarantine, "a good revision was taken back for want of room"


async def test_counting_want_of_room_against_a_revision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler.planning.perceive, "shortages", lambda view, revision: ())
    with pytest.raises(AssertionError, match=r"want of room|blocked"):
        await _patience(crowded(2))


async def _both_arrive(sizes: list[dict[str, int]], spare: int, **options: Any) -> Crowd:
    """Roll several services with several deployments out at once, on nodes that have `spare` places left."""
    crowd = Crowd(sizes=sizes, spare=spare, **options)
    await crowd.start()
    await crowd.roll_out()
    await crowd.all_arrive()
    return crowd


PAIRS = [{"Echo": 1, "Backend": 1}, {"Echo": 1, "Backend": 1}]


async def test_two_rollouts_that_each_hold_half_of_the_room_take_turns() -> None:
    gave = (await _both_arrive(PAIRS, 2)).gave_way()
    assert {event.service for event in gave} == {"s1"}, "the eldest goes first"
    assert "s0 waits for the same room and goes first" in gave[0].message


async def test_without_turns_they_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.service, "gives_way_to", lambda view: None)
    with pytest.raises(AssertionError, match="not within"):
        await _both_arrive(PAIRS, 2)


async def test_first_deployments_that_each_hold_half_of_the_room_take_turns() -> None:
    sim = crowded(*[1.0] * 4)
    await sim.start()
    sim.push(spec("v1", {"Echo": 2, "Backend": 2}, "a"), spec("v1", {"Echo": 2, "Backend": 2}, "b"))
    done = lambda: sum(1 for name in ("a", "b") if sim.memory(name).stable == "v1") == 1  # noqa: E731
    await sim.run(5)
    await sim.until(done, within=900, what="one of them serves")
    for number in range(5, 9):
        sim.nodes.add(make_node(number, "a", cpus=1))
    await sim.until(lambda: sim.memory("b").stable == sim.memory("a").stable == "v1", within=900, what="both serve")


double_sizes = st.fixed_dictionaries({"Echo": st.integers(1, 3), "Backend": st.integers(1, 2)})


@lives
@given(
    sizes=st.lists(double_sizes, min_size=2, max_size=3),
    spare=st.integers(2, 4),
    unavailable=st.sampled_from([0, 0, "50%"]),
    apart=st.sampled_from([0, 1, 7, 40]),
)
async def test_rollouts_with_several_deployments_on_full_nodes_all_arrive(
    sizes: list[dict[str, int]], spare: int, unavailable: int | str, apart: int
) -> None:
    await _both_arrive(sizes, spare, unavailable=unavailable, apart=apart)


@lives
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    spare=st.integers(0, 2),
    unavailable=st.sampled_from([0, 0, 1, "50%"]),
    later=st.integers(10, 200),
)
async def test_everybody_arrives_once_there_is_room_and_nobody_is_blamed(
    sizes: list[int], spare: int, unavailable: int | str, later: int
) -> None:
    sim = crowded(*[1.0] * (sum(sizes) + spare))
    names = [f"s{number}" for number in range(len(sizes))]

    def push(version: str) -> None:
        sim.push(*(spec(version, size, name, unavailable=unavailable) for name, size in zip(names, sizes, strict=True)))

    await sim.start()
    push("v1")
    await sim.settle()
    push("v2")
    await sim.run(later)
    sim.nodes.add(make_node(90, "a", cpus=1))
    await sim.until(lambda: all(sim.memory(name).stable == "v2" for name in names), within=2400, what="all at v2")
    taken_back = [entry for entry in sim.store._history if entry.outcome is Outcome.ROLLED_BACK]
    assert not taken_back
