"""An answer about a service is handed on for as long as what was read for it is the same, and no longer."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from policies.recall import recalled
from policies.rollout import move
from policies.verdicts import judgement
from policies.view import ServiceView, view_of
from reconciler.planning.compose import with_counts
from specs.evidence import Evidence, LatencyCounts, Window
from specs.memory import Comparison
from specs.observed import TrafficSeen
from specs.world import World
from tests.builders import NOW, cell, look, seconds, service, steps

V1, V2 = "chat.v1.-.-.0", "chat.v2.-.-.0"


def first_look(**options: Any) -> World:
    """Return a world that comes with an empty recall."""
    spec = service(version="v2", sizes=2, steps=steps(50, "analysis 60"))
    cells = cell("v1", ready=1, weight=5000), cell("v2", ready=1, weight=5000)
    view = look(spec, *cells, stable="v1", candidate="v2", step=1, **options)
    return replace(view.around, recall={})


def later(world: World, by: float = 1, **changes: Any) -> World:
    """Return the world as it is seen so many seconds later, with the same Memory and cells."""
    now = world.now + seconds(by)
    return replace(world, now=now, observed=replace(world.observed, at=now, **changes))


class Asked:
    """A question whose working out is counted."""

    def __init__(self, question: Callable[[ServiceView], Any]) -> None:
        self.count = 0

        def ask(view: ServiceView) -> Any:
            self.count += 1
            return question(view)

        self.of = recalled(ask)


def is_handed_on(question: Callable[[ServiceView], Any], first: World, *looks: World) -> bool:
    """Return whether a question that was asked at the first look is not worked out at the others."""
    asked = Asked(question)
    for world in (first, *looks):
        assert asked.of(view_of(world, "chat")) == question(view_of(replace(world, recall=None), "chat"))
    return asked.count == 1


def test_what_reads_only_memory_spec_and_cells_holds_for_as_long_as_these_are_the_same() -> None:
    world = first_look()
    assert is_handed_on(lambda view: view.weights, world, later(world), later(world, 3600))
    assert is_handed_on(move, world, later(world)), "a whole move is such an answer, while all are ready"


@recalled
def inner(view: ServiceView) -> Any:
    return view.now


@pytest.mark.parametrize(
    "read",
    [
        lambda view: view.now,
        lambda view: view.observed.at,
        lambda view: view.world.now,
        lambda view: replace(view, memory=replace(view.memory, candidate=None)).now,
        inner,
    ],
    ids=["the-time", "the-observation", "the-world", "a-copy-of-the-view", "another-answer"],
)
def test_what_was_read_besides_goes_with_the_look(read: Callable[[ServiceView], Any]) -> None:
    world = first_look()
    assert is_handed_on(read, world, world)
    assert not is_handed_on(read, world, later(world))


def test_an_answer_that_rests_on_one_that_was_known_ends_with_it_too() -> None:
    world = first_look()
    inner(view_of(world, "chat"))
    assert not is_handed_on(inner, world, later(world))


def test_in_one_look_only_what_read_the_world_ends_with_other_services_memory() -> None:
    world = first_look()
    other = replace(world, memory=replace(world.memory))
    assert is_handed_on(lambda view: view.now, world, other)
    assert not is_handed_on(lambda view: len(view.world.memory.services), world, other)


def test_what_asks_for_time_that_passes_holds_until_it_has() -> None:
    world = first_look()

    def is_over(view: ServiceView) -> bool:
        return view.has_lasted(NOW - seconds(5), timedelta(seconds=10))

    assert is_handed_on(is_over, world, later(world), later(world, 4))
    assert not is_handed_on(is_over, world, later(world, 5))
    assert is_handed_on(is_over, later(world, 5), later(world, 6), later(world, 3600))
    assert not is_handed_on(is_over, later(world, 5), later(world, 4)), "a clock that was set back"


def test_it_ends_with_memory_and_with_the_cells() -> None:
    world = first_look()
    remembered = replace(world.memory.services["chat"], peak=7)
    assert not is_handed_on(
        lambda view: view.memory.peak,
        world,
        replace(world, memory=replace(world.memory, services={"chat": remembered})),
    )
    seen = world.observed.cells[0]
    gone = (replace(seen, deployments=()), *world.observed.cells[1:])
    assert not is_handed_on(lambda view: view.live("Echo"), world, later(world, cells=gone))
    assert not is_handed_on(lambda view: view.is_complete, world, later(world, complete=False))
    assert not is_handed_on(lambda view: view.weights, world, replace(later(world), recall={}))


def test_cells_that_are_seen_again_the_same_are_the_same_whatever_they_have_in_flight() -> None:
    world = first_look()
    gateway = world.observed.gateway
    assert gateway is not None
    again = tuple(replace(seen) for seen in world.observed.cells)
    busy = replace(gateway, lanes=tuple(replace(lane, in_flight=3) for lane in gateway.lanes))
    assert is_handed_on(lambda view: view.weights, world, later(world, cells=again, gateway=busy))
    assert not is_handed_on(lambda view: view.in_flight(view.cells[0]), world, later(world, gateway=busy))
    fewer = replace(gateway, lanes=tuple(replace(lane, weight=1) for lane in gateway.lanes))
    assert not is_handed_on(lambda view: view.weights, world, later(world, gateway=fewer))


def test_arguments_by_name_are_not_taken_for_others() -> None:
    @recalled
    def told(view: ServiceView, word: str = "") -> str:
        return f"{view.name} {word}"

    view = view_of(first_look(), "chat")
    assert [told(view), told(view, word="b"), told(view, "c"), told(view, "d")] == [
        "chat ",
        "chat b",
        "chat c",
        "chat d",
    ]


def test_an_answer_that_failed_is_not_remembered_and_leaves_nothing_behind() -> None:
    view = view_of(first_look(), "chat")

    @recalled
    def broken(view: ServiceView) -> Any:
        raise LookupError(view.now)

    for _ in range(2):
        with pytest.raises(LookupError):
            broken(view)
    assert is_handed_on(lambda view: view.weights, view.around, later(view.around))


def test_what_is_sent_to_other_processes_is_the_world_alone() -> None:
    many = Evidence(requests=400, latency=LatencyCounts.of(dict.fromkeys(range(150, 250), 4)))
    grouped = replace(many, clients=(many,) * 64)
    past = (Window(candidate=grouped, stable=grouped),)
    start = {V1: Evidence(), V2: Evidence()}
    comparison = Comparison(
        candidate="v2", stable="v1", since=NOW, weights={V1: 5000, V2: 5000}, start=start, past=past
    )
    world = first_look(comparison=comparison)
    gateway = world.observed.gateway
    assert gateway is not None
    traffic = tuple(TrafficSeen(cell=name, evidence=grouped) for name in (V1, V2))
    world = later(world, gateway=replace(gateway, traffic=traffic))
    before = pickle.dumps(world)
    view = view_of(world, "chat")
    assert judgement(view) is not None
    assert move(view) is not None
    assert all(with_counts(cell.memory, cell.seen) for cell in view.cells)
    assert pickle.dumps(world) == before
    assert pickle.loads(before) == world
