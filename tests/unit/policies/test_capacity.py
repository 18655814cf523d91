"""How many replicas each revision is to have: shares, goals, and the next move within the budget."""

from __future__ import annotations

import pytest

from policies.capacity import carriers_of, goal_counts, next_counts, share_of
from policies.layout import make_layout
from policies.rollout import goal_weights
from policies.traffic import next_weights
from policies.view import ServiceView
from specs.memory import OutgoingCause
from specs.routes import FULL
from tests.builders import cell, look, service, steps


@pytest.mark.parametrize(
    ("weight", "replicas", "carriers"),
    [(0, 4, 0), (1, 4, 1), (2500, 4, 1), (2501, 4, 2), (5000, 3, 2), (FULL, 3, 3), (100, 101, 2), (FULL, 1, 1)],
)
def test_a_share_is_carried_by_replicas_rounded_up(weight: int, replicas: int, carriers: int) -> None:
    assert share_of(weight, replicas) == carriers


@pytest.mark.parametrize(
    ("weight", "carriers"), [(0, 0), (1, 1), (3333, 1), (3334, 1), (6666, 2), (6667, 2), (6700, 3)]
)
def test_what_rounding_left_over_needs_no_replica_of_its_own(weight: int, carriers: int) -> None:
    assert carriers_of(weight, 3) == carriers


@pytest.mark.parametrize("replicas", [1, 2, 3, 7, 100, 101, 250])
@pytest.mark.parametrize("percent", [1, 10, 33, 34, 50, 67, 99, 100])
def test_the_carriers_of_a_step_are_ready_for_all_of_it(replicas: int, percent: int) -> None:
    weight = percent * 100
    assert share_of(weight, replicas) * FULL // replicas >= weight


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "percent", "goal"),
    [
        (3, 1, 0, 10, {"v1": 3, "v2": 1}),
        (3, 1, 0, 50, {"v1": 2, "v2": 2}),
        (3, 1, 0, 100, {"v1": 0, "v2": 3}),
        (1, 1, 0, 10, {"v1": 1, "v2": 1}),
        (3, 0, 1, 50, {"v1": 1, "v2": 2}),
        (1, 0, 1, 50, {"v1": 0, "v2": 1}),
        (4, 4, 0, 25, {"v1": 3, "v2": 1}),
        (10, "25%", 0, 50, {"v1": 5, "v2": 5}),
    ],
)
def test_the_goal_of_a_step_fits_the_budget(
    replicas: int, surge: int | str, unavailable: int, percent: int, goal: dict[str, int]
) -> None:
    spec = service(version="v2", sizes=replicas, surge=surge, unavailable=unavailable, steps=steps(percent))
    view = look(spec, cell("v1", ready=replicas, weight=FULL), cell("v2"), stable="v1", candidate="v2")
    found = goal_counts(view, "Echo", goal_weights(view))
    assert found == goal
    assert sum(found.values()) <= view.budget("Echo").ceiling


def test_without_a_rollout_the_stable_revision_has_the_target() -> None:
    view = look(service(sizes=5), cell("v1", ready=3, weight=FULL), stable="v1")
    assert _next(view) == {"v1": 5}


def test_the_candidate_grows_only_into_the_room() -> None:
    spec = service(version="v2", sizes=4, surge=1, steps=steps(50))
    stable, candidate = cell("v1", ready=4, weight=FULL), cell("v2", ready=1, weight=0)
    view = look(spec, stable, candidate, stable="v1", candidate="v2")
    assert view.room("Echo") == 0
    assert _next(view)["v2"] == 1


def test_stopping_replicas_hold_their_place() -> None:
    spec = service(version="v2", sizes=4, surge=1, steps=steps(50))
    stable = cell("v1", ready=3, stopping=1, target=3, weight=7500)
    view = look(spec, stable, cell("v2", ready=1, weight=2500), stable="v1", candidate="v2")
    assert _next(view) == {"v1": 3, "v2": 1}


def test_the_stable_revision_shrinks_once_the_traffic_has_moved() -> None:
    spec = service(version="v2", sizes=4, surge=1, steps=steps(50))
    moved = look(spec, cell("v1", ready=4, weight=7500), cell("v2", ready=1, weight=2500), stable="v1", candidate="v2")
    assert _next(moved) == {"v1": 3, "v2": 1}
    still = look(spec, cell("v1", ready=4, weight=FULL), cell("v2", starting=1), stable="v1", candidate="v2")
    assert _next(still) == {"v1": 4, "v2": 1}


def test_a_shrink_leaves_what_is_owed_even_if_nothing_else_is_ready() -> None:
    spec = service(version="v2", sizes=4, surge=0, unavailable=1, steps=steps(50))
    view = look(spec, cell("v1", ready=4, weight=FULL), stable="v1", candidate="v2")
    assert _next(view) == {"v1": 3}


def test_one_replica_without_surge_stops_before_the_next_starts() -> None:
    spec = service(version="v2", sizes=1, surge=0, unavailable=1, steps=steps(50))
    view = look(spec, cell("v1", ready=1, weight=FULL), stable="v1", candidate="v2")
    assert _next(view) == {"v1": 0}


def test_a_warm_revision_keeps_its_replicas_until_somebody_needs_the_room() -> None:
    warm = {"v1": OutgoingCause.REPLACED}
    spec = service(version="v2", sizes=3, surge=1)
    idle = look(spec, cell("v2", ready=3, weight=FULL), cell("v1", ready=1), stable="v2", outgoing=warm)
    assert _next(idle) == {"v2": 3, "v1": 1}
    short = look(spec, cell("v2", ready=2, weight=FULL), cell("v1", ready=2), stable="v2", outgoing=warm)
    assert _next(short) == {"v2": 2, "v1": 1}


def test_a_shrink_that_serve_never_heard_of_is_decided_anew() -> None:
    """Serve has 4; 2 were commanded in vain. Two of the four have died since: nothing may go."""
    broken = cell("v1", ready=2, starting=2, target=4, weight=FULL, counts={"Echo": 2})
    view = look(service(sizes=4), broken, stable="v1")
    assert _next(view) == {"v1": 4}


def test_a_growth_that_serve_never_heard_of_keeps_its_place() -> None:
    spec = service(version="v2", sizes=4, surge=1, steps=steps(50))
    stable = cell("v1", ready=3, target=3, weight=7500)
    promised = cell("v2", ready=1, target=1, weight=2500, counts={"Echo": 2})
    view = look(spec, stable, promised, stable="v1", candidate="v2")
    assert view.room("Echo") == 0
    assert _next(view) == {"v1": 3, "v2": 2}


def _next(view: ServiceView) -> dict[str, int]:
    goal = goal_weights(view)
    layout = make_layout(view, {"Echo": goal_counts(view, "Echo", goal)})
    found = next_counts(view, "Echo", goal, next_weights(view, goal), layout)
    return {cell.revision: found.cells[cell.name] for cell in view.cells if cell.name in found.cells}


@pytest.mark.parametrize(("carried", "kept"), [(3333, 2), (3300, 3)])
def test_a_share_that_whole_replicas_carry_leaves_the_others_with_the_rest(carried: int, kept: int) -> None:
    view = look(service("chat", "v2", 3), cell("v1"), cell("v2"), stable="v1", candidate="v2")
    assert goal_counts(view, "Echo", {"v1": FULL - carried, "v2": carried}) == {"v1": kept, "v2": 1}
