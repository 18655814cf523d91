"""What a look adds to Memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reconciler.planning.perceive import perceive
from specs.memory import Memory, OperatorPause, Rollout, ServiceMemory
from specs.observed import CellStatus
from specs.routes import FULL
from specs.world import World
from tests.builders import NOW, cell, seconds, service, steps, world

NAME = "chat.v1.-.-.0"


def after(made: World) -> ServiceMemory:
    return perceive(made).memory.services["chat"]


def rollout_of(made: World) -> Rollout:
    rollout = made.memory.services["chat"].rollout
    assert rollout is not None
    return rollout


def rolling(**options: Any) -> World:
    spec = service(version="v2", sizes=2, steps=steps(10, "60", 50))
    rollout = {"progress_at": NOW - seconds(60), **options.pop("rollout", {})}
    cells = cell("v1", ready=2, weight=FULL), cell("v2", **options)
    return world(spec, *cells, stable="v1", candidate="v2", rollout=rollout, **options.pop("memory", {}))


def test_replicas_and_targets_are_remembered() -> None:
    memory = after(world(service(), cell("v1", ready=2, target=3, weight=FULL), candidate="v1"))
    assert memory.cells[0].seen == {f"{NAME}-0": "n1", f"{NAME}-1": "n1"}
    assert memory.cells[0].targets == {"Echo": 3}
    assert memory.cells[0].was_ready


def test_the_time_since_when_a_replica_answers_is_kept_while_it_does() -> None:
    made = world(service(), cell("v1", ready=2, weight=FULL), stable="v1", ready_since={f"{NAME}-0": NOW - seconds(5)})
    assert after(made).ready_since == {f"{NAME}-0": NOW - seconds(5), f"{NAME}-1": NOW}
    gone = world(service(), cell("v1", stopping=1, weight=FULL), stable="v1", ready_since={f"{NAME}-0": NOW})
    assert after(gone).ready_since == {}


def test_a_lower_target_says_how_many_replicas_were_taken_away() -> None:
    made = world(service(), cell("v1", ready=1, target=1, weight=FULL, targets={"Echo": 3}), candidate="v1")
    assert after(made).cells[0].shrunk == 2


def test_replicas_of_a_cell_that_was_taken_away_did_not_crash() -> None:
    for options in ({"seen": False}, {"stopping": 2, "status": CellStatus.DELETING}):
        memory = after(world(service(), cell("v1", weight=FULL, died=3, shrunk=1, **options), candidate="v1"))
        assert (memory.cells[0].seen, memory.cells[0].shrunk) == ({}, 0)


def test_a_replica_first_seen_while_it_stops_is_nobodys_loss() -> None:
    memory = after(world(service(), cell("v1", ready=1, stopping=2, weight=FULL), candidate="v1"))
    assert memory.cells[0].seen == {f"{NAME}-0": "n1"}


def test_the_replicas_of_a_stable_revision_come_and_go() -> None:
    memory = after(world(service(), cell("v1", ready=2, weight=FULL, died=3), stable="v1"))
    assert (memory.cells[0].seen, memory.cells[0].shrunk) == ({}, 0)


def test_while_serve_builds_nothing_is_forgotten() -> None:
    made = world(service(), cell("v1", building=True, weight=FULL, died=3, targets={"Echo": 3}), stable="v1")
    found = after(made).cells[0]
    assert found == replace(made.memory.services["chat"].cells[0], was_seen=True, written=found.written)


def test_a_cell_that_stayed_is_not_fought_over_any_more() -> None:
    def restores(restored: float) -> int:
        put_back = cell("v1", ready=3, weight=FULL, restores=4, restored_at=NOW - seconds(restored))
        return after(world(service(), put_back, stable="v1")).cells[0].restores

    assert (restores(299), restores(300)) == (4, 0)


def test_counts_that_nobody_commanded_are_learned() -> None:
    made = world(service(), cell("v1", ready=4, deployment="Backend", counts={}, weight=FULL), stable="v1")
    assert after(made).learned == {"Backend": 4}


def test_blindness_changes_nothing_but_that_the_deadline_does_not_run() -> None:
    made = replace(rolling(starting=1), observed=replace(rolling().observed, complete=False, cells=()))
    before = made.memory.services["chat"]
    assert after(made) == replace(before, rollout=replace(rollout_of(made), is_untimed=True))


def blind(made: World) -> World:
    return replace(made, observed=replace(made.observed, complete=False))


def paused(made: World) -> World:
    memory = replace(made.memory.services["chat"], pause=OperatorPause(by="ada", why="", at=NOW))
    return replace(made, memory=Memory(services={"chat": memory}))


def not_handed_to_serve(made: World) -> World:
    return replace(made, observed=replace(made.observed, cells=made.observed.cells[:1]))


@pytest.mark.parametrize("wait", [blind, paused, not_handed_to_serve])
def test_a_wait_that_is_nobodys_fault_is_one_write_and_the_deadline_begins_at_its_end(
    wait: Callable[[World], World],
) -> None:
    start = perceive(rolling(starting=1))
    waiting = perceive(wait(replace(start, now=NOW + seconds(9))))
    assert rollout_of(waiting).is_untimed

    hour = perceive(replace(waiting, now=NOW + seconds(3600)))
    assert hour.memory is waiting.memory, "nothing is written meanwhile"

    memory = replace(hour.memory.services["chat"], pause=None)
    ended = rollout_of(perceive(replace(hour, observed=start.observed, memory=Memory(services={"chat": memory}))))
    assert (ended.is_untimed, ended.progress_at) == (False, NOW + seconds(3600))


def test_progress_is_a_ready_replica_a_weight_or_a_step() -> None:
    mark = after(rolling(starting=1)).rollout
    assert mark is not None
    assert mark.progress_at == NOW
    same = {"progress": mark.progress}
    for options, moved in (({"starting": 1}, False), ({"ready": 1, "target": 1}, True), ({"starting": 2}, True)):
        rollout = after(rolling(rollout=same, **options)).rollout
        assert rollout is not None
        assert (rollout.progress_at == NOW) == moved, options


def test_the_peak_is_kept_while_something_moves() -> None:
    assert after(rolling(ready=1, stopping=2)).peak == 5
    assert after(world(service(), cell("v1", ready=3, weight=FULL), stable="v1", peak=9)).peak == 9
