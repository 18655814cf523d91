"""Each rule of placement, broken, is found by a story about zones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

import policies.capacity
import policies.cells
import policies.registry
import policies.shares
import policies.sites
import policies.view
import reconciler.planning.remember
import reconciler.planning.routing
from tests.sim import test_autoscaled_moves as moves
from tests.sim import test_zone_limits as limits
from tests.sim import test_zones as stories

Story = Callable[[], Awaitable[None]]


def _all_in_the_first(total: int, sites: Any, ground: Any) -> dict[Any, int]:
    parts = dict.fromkeys(sites, 1)
    parts[sites[0]] += total - len(parts)
    return parts


SURGE = {"surge": 2}

MUTATIONS: dict[str, tuple[Any, str, Any, Story]] = {
    "not spread": (policies.registry.PLACEMENT, "spread", _all_in_the_first, stories.test_replicas_are_spread_evenly),
    "believed lost at once": (
        policies.sites,
        "GONE_AFTER",
        timedelta(0),
        stories.test_a_zone_that_is_away_for_a_moment_costs_nothing,
    ),
    "believed back at once": (
        policies.sites,
        "BACK_AFTER",
        timedelta(0),
        stories.test_a_zone_that_flaps_is_not_believed,
    ),
    "never moved": (
        policies.capacity,
        "_move",
        lambda posts, missing, room: 0,
        stories.test_zones_may_be_chosen_changed_and_left_out_again,
    ),
    "a move's surge is taken for what requests ask for": (
        reconciler.planning.remember,
        "base_of_move",
        lambda view: {},
        partial(moves.test_an_autoscaled_service_leaves_a_zone_without_growing_by_more_than_its_surge, (12, 40), SURGE),
    ),
    "autoscaled cells that leave make no room": (
        policies.capacity,
        "_givers",
        lambda view, deployment, posts, excess, unmet: (posts, min(excess, unmet)),
        partial(moves.test_an_autoscaled_service_leaves_a_zone_without_growing_by_more_than_its_surge, (12, 12), SURGE),
    ),
    "left before the others carry it": (
        policies.shares,
        "_is_dispensable",
        lambda view, cell, going, weights: True,
        stories.test_zones_may_be_chosen_changed_and_left_out_again,
    ),
    "never left": (
        policies.cells,
        "departures",
        lambda view, layout, weights: frozenset(),
        stories.test_zones_may_be_chosen_changed_and_left_out_again,
    ),
    "preferred while revisions are compared": (
        reconciler.planning.routing,
        "_may_prefer_zone",
        lambda service, weights: True,
        stories.test_a_rollout_keeps_the_spread,
    ),
    "nothing kept ready": (
        policies.view,
        "kept_ready",
        lambda target, known, usable: target,
        stories.test_enough_is_kept_ready_for_the_loss_of_a_zone,
    ),
    "without surge no cell stands in for one that leaves": (
        policies.capacity,
        "_stand_in",
        lambda view, deployment, posts, weights: None,
        partial(limits.rolled_out_without_surge, {"Echo": 4, "Backend": 2}),
    ),
    "without surge nothing grows where it is": (
        policies.capacity,
        "_grow_beyond",
        lambda view, deployment, posts, most, layout: 0,
        partial(limits.rolled_out_without_surge, {"Echo": 5, "Backend": 2}),
    ),
    "without surge what grew makes way at once": (
        policies.capacity,
        "_makes_way",
        lambda view, line, deployment, layout: not view.budget(deployment).surge,
        partial(limits.rolled_out_without_surge, {"Echo": 5, "Backend": 4}),
    ),
    "without surge nothing goes first": (
        policies.capacity,
        "_make_way",
        lambda posts, missing: 0,
        stories.test_without_surge_replicas_move_one_after_the_other,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, what, value, story = MUTATIONS[name]
    if isinstance(module, dict):
        monkeypatch.setitem(module, what, value)
    else:
        monkeypatch.setattr(module, what, value)
    with pytest.raises(AssertionError):
        await story()
