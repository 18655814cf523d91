"""Each rule of markets and of notices, broken, is found by a story."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

import policies.capacity
import policies.layout
import policies.shares
import policies.sites
import policies.view
import reconciler.observe
import reconciler.preemption
from policies.view import ServiceView
from specs.effects import SaveMemory
from tests.sim import test_markets as markets
from tests.sim import test_preemption as notices

Story = Callable[[], Awaitable[None]]


def _not_normalised(view: ServiceView, line: str | None, but: Any = ()) -> Any:
    left = set(but)
    cells = [cell for cell in view.cells_of(line) if not cell.is_draining and cell.name not in left]
    return sum((view.capacity(cell) for cell in cells), start=0)


def _everything(plots: Any, base: Any, cells: int) -> dict[str, Any]:
    return {plot.name: dict(plot.total) for plot in plots}


MUTATIONS: dict[str, tuple[Any, str, Any, Story]] = {
    "all on demand": (
        policies.layout,
        "on_demand",
        _everything,
        markets.test_the_base_is_on_nodes_that_stay_and_the_rest_on_spot_even_over_zones,
    ),
    "spot believed back at once": (
        policies.sites,
        "SPOT_AFTER",
        timedelta(seconds=30),
        markets.test_what_spot_nodes_held_falls_back_and_comes_back_without_haste,
    ),
    "the base scales": (
        policies.parts.Parts,
        "_share",
        lambda self, total, deployment: total // 2,
        markets.test_the_base_of_an_autoscaled_service_does_not_scale,
    ),
    "a percentage of an autoscaled service halves it": (
        policies.parts.Parts,
        "_share",
        lambda self, total, deployment: total // 2,
        partial(markets.test_a_percentage_is_of_both_bounds_of_an_autoscaled_service, *markets.SHARES[0]),
    ),
    "what counts lose is held against them": (
        policies.view.ServiceView,
        "carried",
        _not_normalised,
        partial(markets.test_several_deployments_go_together, {"Echo": 5, "Backend": 3}),
    ),
    "never left in time": (
        reconciler.observe,
        "without_leaving",
        lambda endpoints, left, memory, gateway: endpoints,
        notices.test_a_node_is_left_in_time_even_when_nothing_can_take_its_place,
    ),
    "room waited for": (
        policies.sites,
        "_is_squeezed_out",
        lambda view, seen: False,
        notices.test_a_short_notice_leaves_no_time_for_serves_own_word,
    ),
    "not remembered": (
        reconciler.preemption,
        "SaveMemory",
        lambda preemption: SaveMemory(),
        notices.test_a_restart_keeps_the_deadline_and_tells_ray_once,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, what, value, story = MUTATIONS[name]
    monkeypatch.setattr(module, what, value)
    with pytest.raises((AssertionError, KeyError)):
        await story()
