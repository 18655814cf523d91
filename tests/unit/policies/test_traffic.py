"""Weights: raised only to what is ready, taken at once from what does not answer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from policies.rollout import goal_weights
from policies.traffic import next_weights, ready_share
from policies.view import ServiceView
from specs.memory import OutgoingCause
from specs.routes import FULL
from tests.builders import NOW, cell, look, service, steps


@pytest.mark.parametrize(
    ("replicas", "unavailable", "ready", "share"),
    [
        (3, 0, 0, 0),
        (3, 0, 1, 3333),
        (3, 0, 2, 6666),
        (3, 0, 3, FULL),
        (3, 1, 2, FULL),
        (4, "50%", 1, 5000),
        (1, 1, 1, FULL),
    ],
)
def test_the_ready_share_is_what_ready_replicas_carry(
    replicas: int, unavailable: int | str, ready: int, share: int
) -> None:
    spec = service(sizes=replicas, unavailable=unavailable)
    assert ready_share(look(spec, cell("v1", ready=ready), stable="v1"), "v1") == share


def test_a_replica_is_ready_only_after_min_ready() -> None:
    spec = service(sizes=1, min_ready=10)
    fresh = look(spec, cell("v1", ready=1), stable="v1", ready_since={"chat.v1.-.-.0-0": NOW})
    assert ready_share(fresh, "v1") == 0


def test_a_replica_that_fails_the_gateways_checks_is_not_ready() -> None:
    memory, seen, lane = cell("v1", ready=2)
    assert lane is not None
    unseen = look(service(sizes=2), (memory, seen, None), stable="v1")
    assert ready_share(unseen, "v1") == 0


@pytest.mark.parametrize(
    ("story", "stable", "candidate", "weights"),
    [
        ("nothing of the candidate is ready", (4, FULL), (0, 0), {"v1": FULL, "v2": 0}),
        ("one of four is ready", (4, FULL), (1, 0), {"v1": 7500, "v2": 2500}),
        ("the step is reached", (4, 5000), (4, 5000), {"v1": 5000, "v2": 5000}),
        ("the candidate is dead", (2, 5000), (0, 5000), {"v1": FULL, "v2": 0}),
        ("the stable one is dead", (0, 5000), (1, 5000), {"v1": 0, "v2": FULL}),
        ("both are dead: nobody to give to", (0, 5000), (0, 5000), {"v1": 5000, "v2": 5000}),
    ],
)
def test_the_next_weights(
    story: str, stable: tuple[int, int], candidate: tuple[int, int], weights: Mapping[str, int]
) -> None:
    spec = service(version="v2", sizes=4, steps=steps(50))
    cells = cell("v1", ready=stable[0], weight=stable[1]), cell("v2", ready=candidate[0], weight=candidate[1])
    assert _next(look(spec, *cells, stable="v1", candidate="v2")) == weights, story


def test_what_was_rolled_back_hands_back_as_fast_as_the_stable_one_is_ready() -> None:
    out = {"v2": OutgoingCause.ROLLED_BACK}
    cells = cell("v1", ready=3, weight=5000), cell("v2", ready=2, weight=5000)
    assert _next(look(service(sizes=4), *cells, stable="v1", outgoing=out)) == {"v1": 7500, "v2": 2500}


def test_a_third_revision_takes_from_the_outgoing_one_first() -> None:
    spec = service(version="v3", sizes=4, steps=steps(25))
    cells = cell("v1", ready=2, weight=5000), cell("v2", ready=2, weight=5000), cell("v3", ready=1)
    view = look(spec, *cells, stable="v1", candidate="v3", outgoing={"v2": OutgoingCause.SUPERSEDED})
    assert _next(view) == {"v1": 5000, "v3": 2500, "v2": 2500}


def test_while_the_candidate_waits_for_room_the_stable_one_relieves_the_outgoing() -> None:
    """One replica each and a surge of one: the candidate could never start otherwise."""
    spec = service(version="v3", sizes=1, steps=steps(50))
    cells = cell("v1", ready=1, weight=5000), cell("v2", ready=1, weight=5000)
    view = look(spec, *cells, stable="v1", candidate="v3", outgoing={"v2": OutgoingCause.SUPERSEDED})
    assert _next(view) == {"v1": FULL, "v3": 0, "v2": 0}


def test_before_anything_is_stable_the_largest_outgoing_revision_carries_on() -> None:
    spec = service(version="v3", sizes=2, steps=steps(50))
    cells = cell("v1", ready=1, weight=3300), cell("v2", ready=2, weight=6700)
    out = {"v1": OutgoingCause.ROLLED_BACK, "v2": OutgoingCause.SUPERSEDED}
    assert _next(look(spec, *cells, candidate="v3", outgoing=out)) == {"v3": 0, "v1": 0, "v2": FULL}


def test_a_first_deployment_is_routed_when_all_of_it_is_ready() -> None:
    spec = service(sizes=2)
    assert _next(look(spec, cell("v1", ready=1), candidate="v1")) == {"v1": 0}
    assert _next(look(spec, cell("v1", ready=2), candidate="v1")) == {"v1": FULL}


def test_a_gateway_that_lost_its_lanes_gets_them_back_as_they_were() -> None:
    spec = service(version="v2", sizes=2, steps=steps(50))
    cells = cell("v1", ready=1, weight=None), cell("v2", ready=1, weight=None)
    view = look(spec, *cells, stable="v1", candidate="v2", weights={"chat.v1.-.-.0": 5000, "chat.v2.-.-.0": 5000})
    assert view.weights == {"v1": 5000, "v2": 5000}
    assert _next(view) == {"v1": 5000, "v2": 5000}


def _next(view: ServiceView) -> Mapping[str, int]:
    return next_weights(view, goal_weights(view))
