"""Replicas that never run keep no node, wherever Serve tries them; what runs, or may be about to, keeps its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from policies.compaction.problem import in_units
from policies.compaction.situation import Settled, Situation, expected_use, settle, situation_of
from policies.compaction.starts import FAILED_STARTS, Starts, noted
from specs.compaction import CompactionMemory
from specs.observed import DeploymentSeen, Replica, ReplicaState
from specs.world import World
from tests.builders import NOW
from tests.unit.policies.compaction.test_steps import CHAT, SETTINGS, deployed, kept, node, world

NODES = (node("a"), node("b"), node("c"))


def at(*replicas: tuple[str, ReplicaState, str], target: int = 1, **options: object) -> World:
    """Return a look at replicas: id, state and node."""
    cell = deployed(CHAT, {}, target=target, status="UNHEALTHY")
    found = tuple(Replica(id=name, state=state, node=place) for name, state, place in replicas)
    return world(NODES, replace(cell, deployments=(replace(cell.deployments[0], replicas=found),)), **options)


def after_failures(*, count: int = FAILED_STARTS) -> Mapping[str, Settled]:
    """Return what is known after so many starts that never became ready, the last of them still stopping."""
    settled: Mapping[str, Settled] = {}
    for number in range(count):
        settled = settle(at((f"r{number}", ReplicaState.STARTING, "abc"[number % 3])), settled)
        settled = settle(at((f"r{number}", ReplicaState.STOPPING, "abc"[number % 3])), settled)
    return settled


def look(seen: World, settled: Mapping[str, Settled]) -> Situation:
    return situation_of(seen, SETTINGS, CompactionMemory(), settled, ())


WANDERS = at(("x", ReplicaState.STARTING, "a"), ("w", ReplicaState.STOPPING, "b"))


def test_what_starts_in_vain_keeps_no_node_but_its_room() -> None:
    found = look(WANDERS, after_failures())
    assert kept(found) == {"a": "", "b": "", "c": ""}
    (crowd,) = found.problem.crowds
    assert (crowd.places, crowd.reserve) == ({"a": 1}, 0)
    assert found.problem.machine["b"].room == in_units({"CPU": 4}), "what stops is about to be gone"
    assert found.replicas == {"a": 1, "b": 1}, "but no node is empty before that"


def test_what_has_no_node_now_is_to_find_room() -> None:
    found = look(at(("x", ReplicaState.STARTING, "")), after_failures())
    assert [crowd.reserve for crowd in found.problem.crowds] == [1]


def test_a_start_or_two_may_succeed_and_is_left_alone() -> None:
    found = look(WANDERS, after_failures(count=FAILED_STARTS - 1))
    assert "is not well" in kept(found)["a"]
    assert "is not well" in kept(found)["b"]


def test_a_replica_that_runs_keeps_its_node_beside_those_that_start_in_vain() -> None:
    seen = at(("x", ReplicaState.STARTING, "a"), ("y", ReplicaState.RUNNING, "b"), target=2)
    found = look(seen, after_failures())
    assert kept(found)["a"] == ""
    assert "is not well" in kept(found)["b"]


@pytest.mark.parametrize("options", [{"may_be_moved": False}, {"suspend": True}, {"ours": ()}])
def test_who_does_not_want_to_be_moved_and_what_is_not_ours_is_believed(options: dict[str, object]) -> None:
    seen = at(("x", ReplicaState.STARTING, "a"), **options)
    assert kept(look(seen, after_failures()))["a"]


def test_what_starts_in_vain_may_be_on_any_node_when_a_drain_is_asked_for() -> None:
    settled = after_failures()
    assert expected_use(WANDERS.observed, "c", settled) == {"CPU": 2.0}
    assert expected_use(WANDERS.observed, "c", {}) == {}
    assert expected_use(WANDERS.observed, "a", {}) == {"CPU": 1.0}


def test_an_autoscaled_service_that_is_sick_now_and_then_has_not_changed_its_size() -> None:
    def autoscaled(status: str, minutes: int) -> World:
        cell = deployed(CHAT, {"a": 1}, status=status, is_autoscaled=True)
        return replace(world(NODES, cell), now=NOW + timedelta(minutes=minutes))

    settings = replace(SETTINGS, settle=timedelta(minutes=5))
    settled = settle(autoscaled("HEALTHY", 0), {})
    for minutes, status in enumerate(("UNHEALTHY", "HEALTHY", "UNHEALTHY", "HEALTHY"), start=4):
        settled = settle(autoscaled(status, minutes), settled)
    found = situation_of(autoscaled("HEALTHY", 7), settings, CompactionMemory(), settled, ())
    assert found.swinging == ()
    assert "changed less than" in kept(found)["a"], "its own node stays for a while"
    young = situation_of(autoscaled("HEALTHY", 4), settings, CompactionMemory(), settled, ())
    assert young.swinging == ("chat",)


def seen(target: int, **states: ReplicaState) -> DeploymentSeen:
    replicas = tuple(Replica(id=name, state=state, node="a") for name, state in states.items())
    return DeploymentSeen(name="Main", status="", message="", target=target, replicas=replicas)


def test_only_what_never_ran_is_a_failed_start() -> None:
    one = noted(Starts(), seen(2, a=ReplicaState.RUNNING, b=ReplicaState.STARTING))
    two = noted(one, seen(2, a=ReplicaState.STOPPING, b=ReplicaState.STOPPING, c=ReplicaState.STARTING))
    assert two.failed == 1, "a has run"
    again = noted(two, seen(2, b=ReplicaState.STOPPING, c=ReplicaState.STARTING))
    assert again.failed == 1, "b is counted once"
    gone = noted(again, seen(2, d=ReplicaState.STARTING))
    assert gone.failed == 2, "c is gone without having been seen to stop"
    assert noted(gone, seen(1, d=ReplicaState.RUNNING)) == Starts(ran=frozenset("d"))
