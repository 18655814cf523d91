"""A rollout whose steps are changed while it is under way."""

from __future__ import annotations

import pytest

from policies.steps import resettle
from specs.desired import Step
from specs.memory import Rollout
from tests.builders import NOW, steps

LADDER = steps(10, "60", 25, "60", 50, "60")


def at(step: int) -> Rollout:
    return Rollout(started_at=NOW, step=step, reached_at=NOW, progress_at=NOW)


@pytest.mark.parametrize(
    ("step", "after", "place"),
    [
        pytest.param(3, steps(5, ""), 0, id="a new stop below stops it, and takes traffic back"),
        pytest.param(3, steps(10, "60", 25, "60", 30, ""), 3, id="what lies ahead may change"),
        pytest.param(3, steps(10, "5", 25, "", 50), 3, id="pauses may become longer or shorter"),
        pytest.param(1, steps(5, "60", 10, "60", 50), 2, id="it stands at the weight that it has"),
        pytest.param(3, steps(10, "60", 40, "60"), 2, id="or at the next higher one"),
        pytest.param(3, (), 0, id="without steps nothing is left to wait for"),
        pytest.param(6, steps(10, ""), 2, id="past all steps it stays past all steps"),
        pytest.param(0, steps(50), 0, id="nothing was reached yet"),
    ],
)
def test_a_rollout_keeps_its_place_by_weight_when_its_steps_change(
    step: int, after: tuple[Step, ...], place: int
) -> None:
    assert resettle(at(step), LADDER, after).step == place


def test_a_pause_goes_on_from_where_it_was_only_while_its_place_is_the_same() -> None:
    assert resettle(at(3), LADDER, steps(10, "60", 25, "90")).reached_at == NOW
    assert resettle(at(3), LADDER, steps(5, "60", 25, "60")).reached_at is None
