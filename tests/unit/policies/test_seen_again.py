"""What a look makes of a gateway that has only part of the table, and of a clock that was set back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from policies.view import view_of
from reconciler.planning.perceive import perceive
from tests.builders import cell, look, service, world


def test_a_share_that_never_reached_the_gateway_is_not_counted_beside_those_that_did() -> None:
    view = look(
        service("chat", "v2"),
        cell("v1", ready=3, weight=10_000),
        cell("v2", ready=3, weight=None),
        stable="v1",
        candidate="v2",
        weights={"chat.v1.-.-.0": 5_000, "chat.v2.-.-.0": 5_000},
    )

    assert view.weights == {"v1": 10_000, "v2": 0}


def test_a_gateway_that_lost_all_its_lanes_is_taken_for_what_it_was_told() -> None:
    view = look(
        service("chat", "v2"),
        cell("v1", ready=3, weight=None),
        cell("v2", ready=3, weight=None),
        stable="v1",
        candidate="v2",
        weights={"chat.v1.-.-.0": 7_500, "chat.v2.-.-.0": 2_500},
    )

    assert view.weights == {"v1": 7_500, "v2": 2_500}


def test_a_clock_that_was_set_back_delays_readiness_by_min_ready_only() -> None:
    before = world(service("chat", "v1", min_ready=10), cell("v1", ready=3, weight=10_000), stable="v1")
    back = before.now - timedelta(days=1)

    seen = perceive(replace(before, now=back))
    later = perceive(replace(seen, now=back + timedelta(seconds=10)))

    assert view_of(later, "chat").ready("v1", "Echo") == 3
