"""When a rollout moves on, and what it creates and commands on the way."""

from __future__ import annotations

from typing import Any

import pytest

from policies.rollout import advance, goal_weight, move
from policies.view import ServiceView
from specs.decisions import Decision, EnterStep, Hold, Promote, ReachStep, SetCapacity, SetWeights, StartRevision
from specs.memory import OutgoingCause
from specs.reasons import Reason
from specs.routes import FULL
from tests.builders import NOW, cell, look, seconds, service, steps


def at(step: int, share: int, ready: int = 1, **rollout: Any) -> ServiceView:
    spec = service(version="v2", sizes=2, steps=steps(10, "60", 50, ""))
    cells = cell("v1", ready=2, weight=FULL - share), cell("v2", ready=ready, weight=share)
    return look(spec, *cells, stable="v1", candidate="v2", step=step, rollout=rollout)


@pytest.mark.parametrize(("step", "percent"), [(0, 10), (1, 10), (2, 50), (3, 50), (4, 100)])
def test_the_goal_is_the_last_weight_passed(step: int, percent: int) -> None:
    assert goal_weight(at(step, 0)) == percent * 100


def test_a_first_pause_gives_no_weight_yet() -> None:
    spec = service(version="v2", steps=steps("30", 50))
    assert goal_weight(look(spec, cell("v1", ready=3, weight=FULL), cell("v2"), stable="v1", candidate="v2")) == 0


@pytest.mark.parametrize(
    ("view", "decision"),
    [
        (at(0, 0), None),
        (at(0, 1000), EnterStep(service="chat", step=1)),
        (at(0, 1000, ready=0), None),
        (at(1, 1000), ReachStep(service="chat")),
        (at(1, 1000, reached_at=NOW - seconds(59)), None),
        (at(1, 1000, reached_at=NOW - seconds(60)), EnterStep(service="chat", step=2)),
        (at(3, 5000, reached_at=NOW - seconds(9999)), None),
        (at(4, FULL, ready=1), None),
        (at(4, FULL, ready=2), Promote(service="chat", revision="v2")),
    ],
    ids=["weight", "reached", "dead", "pause", "pausing", "paused", "until promote", "not all ready", "promote"],
)
def test_a_step_ends_when_it_is_done(view: ServiceView, decision: Decision | None) -> None:
    assert advance(view) == decision


def test_the_candidate_is_created_as_large_as_the_room_allows() -> None:
    spec = service(version="v2", sizes=4, surge=2, steps=steps(50))
    (created,) = _of(StartRevision, look(spec, cell("v1", ready=4, weight=FULL), stable="v1", candidate="v2"))
    assert created.counts == {"Echo": 2}
    spec = service(version="v2", sizes=4, surge=2, steps=steps(10))
    (created,) = _of(StartRevision, look(spec, cell("v1", ready=4, weight=FULL), stable="v1", candidate="v2"))
    assert created.counts == {"Echo": 1}


def test_without_room_it_waits_and_says_what_for() -> None:
    spec = service(version="v2", sizes=4, surge=1)
    view = look(spec, cell("v1", ready=4, stopping=1, target=4, weight=FULL), stable="v1", candidate="v2")
    decisions = move(view)
    assert not [decision for decision in decisions if isinstance(decision, StartRevision)]
    (hold,) = (decision for decision in decisions if isinstance(decision, Hold))
    assert hold.reason is Reason.CAPACITY_BUDGET
    assert "5 live replicas of at most 5" in hold.message


def test_a_generation_is_never_used_twice() -> None:
    spec = service(version="v2", sizes=2, surge=1)
    view = look(spec, cell("v1", ready=2, weight=FULL), stable="v1", candidate="v2", generations={"v2": 3})
    (created,) = _of(StartRevision, view)
    assert created.cell.name == "chat.v2.-.-.3"


def test_room_that_the_stable_revision_takes_is_not_given_away_twice() -> None:
    spec = service(version="v3", sizes=3, surge=1, steps=steps(50))
    cells = cell("v1", ready=2, weight=6666), cell("v2", ready=1, weight=3334)
    view = look(spec, *cells, stable="v1", candidate="v3", outgoing={"v2": OutgoingCause.SUPERSEDED})
    assert _of(StartRevision, view) == []
    assert [scaled.count for scaled in _of(SetCapacity, view)] == [3]


def test_a_count_is_said_again_until_serve_has_it() -> None:
    deaf = look(service(sizes=5), cell("v1", ready=3, weight=FULL, counts={"Echo": 5}), stable="v1")
    assert [scaled.count for scaled in _of(SetCapacity, deaf)] == [5]
    done = look(service(sizes=5), cell("v1", ready=3, starting=2, weight=FULL, counts={"Echo": 5}), stable="v1")
    assert _of(SetCapacity, done) == []


def test_weights_are_set_only_when_they_change() -> None:
    assert _of(SetWeights, look(service(), cell("v1", ready=3, weight=FULL), stable="v1")) == []
    (first,) = _of(SetWeights, look(service(), cell("v1", ready=3, weight=0), stable="v1"))
    assert first.weights == {"chat.v1.-.-.0": FULL}


def _of(kind: type[Any], view: ServiceView) -> list[Any]:
    return [decision for decision in move(view) if isinstance(decision, kind)]
