"""Bounds of autoscaled deployments: each cell keeps a replica, whatever Serve shows of it."""

from __future__ import annotations

import pytest

from policies.rollout import move
from specs.decisions import SetCapacity
from specs.memory import Bounds
from specs.routes import FULL
from tests.builders import cell, look, service


@pytest.mark.parametrize(("low", "high"), [(1, 5), (2, 4), (3, 8)])
def test_a_cell_that_somebody_stopped_keeps_a_lower_bound_of_one_though_there_is_no_room(low: int, high: int) -> None:
    before = {"Echo": Bounds(min_replicas=1, max_replicas=high + 1)}
    stopped = cell("v1", stopping=high + 2, target=0, weight=FULL, counts={}, bounds=before)
    view = look(service(sizes={"Echo": (low, high)}, surge=1), stopped, stable="v1")
    assert view.room("Echo") <= 0
    (decided,) = (decision for decision in move(view) if isinstance(decision, SetCapacity))
    assert decided.bounds == Bounds(min_replicas=1, max_replicas=high)
