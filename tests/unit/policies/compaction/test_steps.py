"""What is asked of the planner, and what is done with its answer, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from policies.compaction.problem import Crowd, Machine, Problem, in_units
from policies.compaction.situation import Settled, Situation, placed_by_serve, price_of, settle, situation_of
from policies.compaction.steps import GiveUp, KeepAfterAll, NoteProgress, Release, follow, obstacle
from specs.cells import CellKey
from specs.compaction import CompactionMemory, CompactionSettings, DrainState, Holding, NodeDrain, NodePrice
from specs.memory import CellMemory, Memory, ServiceMemory
from specs.observed import CellSeen, CellStatus, DeploymentSeen, Node, Observed, Replica, ReplicaState
from specs.world import World
from tests.builders import NOW, desired, service

SETTINGS = CompactionSettings(enabled=True, settle=timedelta(0))
LONG_AGO = NOW - timedelta(hours=1)


def node(name: str, cpus: float = 4, **options: Any) -> Node:
    given = {"is_alive": True, "is_head": False, "is_draining": False, "labels": {}, **options}
    return Node(id=name, ip=f"ip-{name}", resources={"CPU": cpus}, **given)


def deployed(name: str, places: Mapping[str, int], **options: Any) -> CellSeen:
    replicas = tuple(
        Replica(id=f"{name}-{place}-{number}", state=ReplicaState.RUNNING, node=place)
        for place, count in places.items()
        for number in range(count)
    )
    seen = DeploymentSeen(
        name="Main",
        message="",
        replicas=replicas,
        **{"status": "HEALTHY", "target": len(replicas), "needs": {"CPU": 1.0}, **options},
    )
    return CellSeen(
        name=name,
        status=CellStatus.RUNNING,
        message="",
        route_prefix=f"/_/{name}",
        is_declarative=True,
        config=None,
        deployments=(seen,),
    )


def world(nodes: tuple[Node, ...], *cells: CellSeen, ours: tuple[str, ...] = ("chat",), **options: Any) -> World:
    services = {}
    for name in ours:
        key = CellKey(service=name, revision="v1")
        cell = CellMemory(key=key, config="{}", created_at=LONG_AGO, building_since=LONG_AGO)
        wanted = replace(service(name), **options)
        services[name] = ServiceMemory(name=name, wanted=wanted, stable="v1", cells=(cell,))
    observed = Observed(at=NOW, complete=True, cells=cells, nodes=nodes)
    return World(now=NOW, desired=desired(), observed=observed, memory=Memory(services=services))


def look(seen: World, memory: CompactionMemory | None = None, holdings: tuple[Holding, ...] = ()) -> Situation:
    settled = {name: Settled(size="", sick="", since=LONG_AGO, sized_at=LONG_AGO) for name in seen.memory.services}
    return situation_of(seen, SETTINGS, memory or CompactionMemory(), settled, holdings)


CHAT = "chat.v1.-.-.0"


def kept(situation: Situation) -> dict[str, str]:
    return {machine.id: machine.kept for machine in situation.problem.machines}


def test_healthy_replicas_of_ours_may_move_and_their_nodes_may_go() -> None:
    found = look(world((node("a"), node("b")), deployed(CHAT, {"a": 2, "b": 1})))
    assert kept(found) == {"a": "", "b": ""}
    (crowd,) = found.problem.crowds
    assert (crowd.places, crowd.needs, crowd.reserve) == ({"a": 2, "b": 1}, in_units({"CPU": 1}), 1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"status": "UNHEALTHY"}, "is not well"),
        ({"target": 5}, "is not well"),
        ({"is_scattered": True}, "several nodes"),
    ],
)
def test_replicas_that_are_not_well_or_spread_out_keep_their_nodes(options: dict[str, Any], word: str) -> None:
    found = look(world((node("a"), node("b")), deployed(CHAT, {"a": 2}, **options)))
    assert word in kept(found)["a"]
    assert kept(found)["b"] == ""
    assert found.problem.machine["a"].room == in_units({"CPU": 2})


@pytest.mark.parametrize(
    ("options", "word"),
    [({"may_be_moved": False}, "compaction.allow: false"), ({"suspend": True}, "suspended")],
)
def test_services_that_say_so_keep_their_nodes(options: dict[str, Any], word: str) -> None:
    assert word in kept(look(world((node("a"),), deployed(CHAT, {"a": 2}), **options)))["a"]


def test_what_is_not_ours_keeps_its_node_and_its_room() -> None:
    foreign = deployed("theirs", {"a": 1})
    found = look(
        world((node("a"), node("b"), node("c")), foreign),
        holdings=(Holding(node="b", what="Trainer", resources={"CPU": 3}),),
    )
    assert "which is not Heliostat's" in kept(found)["a"]
    assert "Trainer" in kept(found)["b"]
    assert found.problem.machine["b"].room == in_units({"CPU": 1})
    assert kept(found)["c"] == ""


def test_the_head_never_goes_and_takes_replicas_only_if_it_has_cpus() -> None:
    found = look(world((node("h", 0, is_head=True), node("i", 4, is_head=True), node("x", is_alive=False))))
    assert kept(found) == {"h": "it is the head", "i": "it is the head"}
    assert [machine.takes for machine in found.problem.machines] == [False, True]


def test_a_drain_under_way_needs_room_for_what_is_still_there() -> None:
    memory = CompactionMemory(drains=(drain("a", replicas=2),))
    found = look(world((node("a"), node("b")), deployed(CHAT, {"a": 2, "b": 1})), memory)
    assert not found.problem.machine["a"].takes
    assert found.problem.crowds[0].reserve == 3, "two that come, and one for a rollout"


def test_room_is_kept_for_the_largest_of_each_kind_only() -> None:
    nodes = (node("a", 16), node("b", 16))
    found = look(
        world(
            nodes,
            deployed(CHAT, {"a": 1}, needs={"CPU": 1}),
            deployed("big.v1.-.-.0", {"a": 1}, needs={"CPU": 4}),
            deployed("tied.v1.-.-.0", {"a": 1}, needs={"CPU": 2}, selector={"zone": "x"}),
            ours=("chat", "big", "tied"),
        )
    )
    assert {crowd.name: crowd.reserve for crowd in found.problem.crowds} == {
        f"{CHAT}#Main": 0,
        "big.v1.-.-.0#Main": 1,
        "tied.v1.-.-.0#Main": 1,
    }


def test_prices_come_from_the_label_then_the_table_then_are_one() -> None:
    settings = replace(
        SETTINGS,
        price_label="price",
        prices=(NodePrice(match={"kind": "in(big, huge)"}, price=7), NodePrice(match={"kind": "!small"}, price=3)),
    )
    labelled = [{"price": "0.25"}, {"price": "free", "kind": "huge"}, {"kind": "mid"}, {"kind": "small"}]
    assert [price_of(node("a", labels=labels), settings) for labels in labelled] == [0.25, 7, 3, 1]


def test_a_service_is_settled_by_its_size_and_health_not_by_its_places() -> None:
    def at(moment: datetime, cell: CellSeen) -> World:
        return replace(world((node("a"), node("b")), cell), now=moment)

    later = NOW + timedelta(minutes=1)
    first = settle(at(NOW, deployed(CHAT, {"a": 2})), {})
    assert settle(at(later, deployed(CHAT, {"b": 2})), first)["chat"].since == NOW
    assert settle(at(later, deployed(CHAT, {"a": 3})), first)["chat"].since == later
    sick = settle(at(later, deployed(CHAT, {"a": 2}, status="UNHEALTHY")), first)["chat"]
    assert (sick.since, sick.sized_at) == (later, NOW)
    blind = at(later, deployed(CHAT, {"a": 3}))
    assert settle(replace(blind, observed=replace(blind.observed, complete=False)), first) == first


def test_a_place_that_serve_might_spoil_is_not_relied_on() -> None:
    """Two small replicas and a large one leave; Serve may put a small one where only the large one fits."""
    machines = tuple(Machine(id=name, room=in_units({"CPU": cpus})) for name, cpus in (("a", 6), ("b", 4), ("c", 2)))
    crowds = (
        Crowd(name="small", needs=in_units({"CPU": 1}), places={"a": 2}),
        Crowd(name="large", needs=in_units({"CPU": 4}), places={"a": 1}),
    )
    assert not placed_by_serve(Problem(machines=machines, crowds=crowds), "a")
    roomy = (*machines, Machine(id="d", room=in_units({"CPU": 5})))
    assert placed_by_serve(Problem(machines=roomy, crowds=crowds), "a")


def drain(name: str, *, state: DrainState = DrainState.DRAINING, replicas: int = 1, age: float = 0) -> NodeDrain:
    at = NOW - timedelta(seconds=age)
    return NodeDrain(
        node=name,
        ip=f"ip-{name}",
        since=at,
        state=state,
        replicas=replicas,
        progress_at=at,
        patience=timedelta(minutes=1),
    )


def followed(one: NodeDrain, *cells: CellSeen, alive: bool = True) -> list[object]:
    seen = world((node("a", is_alive=alive), node("b")), *cells)
    memory = CompactionMemory(drains=(one,))
    return list(follow(seen, SETTINGS, memory, look(seen, memory)))


def test_a_drain_is_followed_to_its_end() -> None:
    assert followed(drain("a", replicas=2), deployed(CHAT, {"a": 1, "b": 1})) == [NoteProgress(node="a", replicas=1)]
    assert followed(drain("a"), deployed(CHAT, {"a": 1})) == []
    assert followed(drain("a"), deployed(CHAT, {"b": 1})) == [Release(node="a")]
    assert followed(drain("a"), alive=False) == [Release(node="a")]


def test_what_was_only_meant_is_not_taken_for_done() -> None:
    assert followed(drain("a", state=DrainState.ASKED, replicas=0)) == []


def test_a_drain_has_as_long_as_the_longest_request_and_then_some() -> None:
    limit = SETTINGS.stall_after + timedelta(minutes=1)
    here = deployed(CHAT, {"a": 1})
    assert followed(drain("a", age=limit.total_seconds() - 1), here) == []
    (step,) = followed(drain("a", age=limit.total_seconds()), here)
    assert isinstance(step, GiveUp)
    assert (step.entry.is_draining, step.entry.until) == (True, NOW + timedelta(hours=1))


def test_an_empty_node_is_kept_when_others_wait_for_room_by_now() -> None:
    waiting = deployed("other", {"b": 1}, is_unplaced=True)
    (step,) = followed(drain("a"), deployed(CHAT, {"b": 1}), waiting)
    assert isinstance(step, KeepAfterAll)
    assert "other#Main wait for room" in step.why


NOWHERE: tuple[dict[str, Any], ...] = (
    {"needs": {"CPU": 64.0}},
    {"selector": {"pool": "huge"}},
    {"needs": {"GPU": 1.0}},
)


@pytest.mark.parametrize("options", NOWHERE)
def test_what_no_node_could_ever_hold_holds_nothing_up(options: dict[str, Any]) -> None:
    hopeless = deployed("theirs", {"b": 1}, is_unplaced=True, **options)
    here = deployed(CHAT, {"b": 1})
    assert followed(drain("a"), here, hopeless) == [Release(node="a")]
    assert obstacle(world((node("a"), node("b")), here, hopeless), SETTINGS, CompactionMemory()) is None


def test_what_waits_for_room_that_a_node_could_have_holds_everything_up() -> None:
    waiting = deployed("theirs", {"b": 1}, is_unplaced=True, needs={"CPU": 4.0})
    held = obstacle(world((node("a"), node("b")), waiting), SETTINGS, CompactionMemory())
    assert held is not None
    assert "theirs#Main wait for room" in held.message
    over_several = deployed("theirs", {"b": 1}, is_unplaced=True, is_scattered=True, needs={"CPU": 8.0})
    assert obstacle(world((node("a"), node("b")), over_several), SETTINGS, CompactionMemory()) is not None


def test_what_only_the_emptied_node_could_hold_keeps_it_also_once_it_has_ended() -> None:
    waiting = deployed("theirs", {"b": 1}, is_unplaced=True, needs={"GPU": 1.0})
    gpus = replace(node("a", is_alive=False), resources={"CPU": 4, "GPU": 1})
    seen = world((gpus, node("b")), deployed(CHAT, {"b": 1}), waiting)
    memory = CompactionMemory(drains=(drain("a"),))
    (step,) = follow(seen, SETTINGS, memory, look(seen, memory))
    assert isinstance(step, KeepAfterAll)
