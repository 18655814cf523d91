"""What a daemon recalls of earlier looks changes nothing: each turn says what it would without, to the letter.

The mutations show that the comparison bites: one way to recall too much each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.recall
import policies.view
from policies.recall import Answers, Reads
from policies.view import ServiceView
from tests.sim import test_zones as zones
from tests.sim.recalling import Differs, taken_twice
from tests.sim.scenarios import ACCIDENTS, LOSSES, OUTAGES, PEOPLE, Act, Shape, Story, Teller, stories
from tests.sim.test_analysis import asking
from tests.sim.test_properties import lives

THREE = Shape(
    sizes={"Echo": 3},
    surge=1,
    unavailable=0,
    steps=(10, "5", 50, "5"),
    min_ready=4,
    scale_down=15,
    code=("good",) * 4,
    asks=True,
)


async def _told_twice(story: Awaitable[object]) -> None:
    """What else goes wrong in a story is for other tests to find."""
    with taken_twice(), suppress(AssertionError):
        await story


@lives
@given(story=stories(*PEOPLE, *ACCIDENTS, *LOSSES, "gate", "gate", "clock", services=2, acts=12, gated=True))
async def test_gates_and_everything_else(story: Story) -> None:
    await _told_twice(Teller(story).tell())


@lives
@given(story=stories(*PEOPLE, *ACCIDENTS, "sicken", "demand", services=2, acts=12, reshapes=True))
async def test_everything_at_once_and_revisions_of_other_shapes(story: Story) -> None:
    await _told_twice(Teller(story).tell())


@lives
@given(story=stories("push", "push", "revert", *OUTAGES, "forget", "kill", "crash", services=3, acts=8).map(asking))
async def test_requests_that_are_judged(story: Story) -> None:
    await _told_twice(Teller(story).tell())


@lives
@given(size=zones.sizes, told=st.lists(zones.turns, min_size=1, max_size=8))
async def test_zones_that_come_and_go(size: Any, told: list[zones.Turn]) -> None:
    await _told_twice(zones.Life(size, {"surge": 1}, tolerate=False).tell(told))


def _no_read_is_noted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reads, "note", lambda self, until: None)


def _time_that_passes_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    def has_lasted(self: ServiceView, since: Any, span: timedelta) -> bool:
        return bool(self.around.now - since >= span)

    patch.setattr(ServiceView, "has_lasted", has_lasted)


def _other_cells_and_memory_are_taken_for_the_same(patch: pytest.MonkeyPatch) -> None:
    def with_answers(view: ServiceView, last: ServiceView) -> ServiceView:
        object.__setattr__(view, "answers", last.answers.handed_on(view.around.now))
        return view

    patch.setattr(policies.view, "_with_answers", with_answers)


def _everything_is_handed_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Answers, "handed_on", lambda self, bar: self)


def _what_an_answer_rests_on_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reads, "rest_on", lambda self, until: None)


MUTATIONS = [
    _no_read_is_noted,
    _time_that_passes_is_not_noted,
    _other_cells_and_memory_are_taken_for_the_same,
    _everything_is_handed_on,
    _what_an_answer_rests_on_is_not_noted,
]


def _act(after: int, what: str, number: int) -> Act:
    return Act(after=after, what=what, service=0, number=number)


CANARY = Story(
    seed=0,
    shapes=(replace(THREE, steps=(10, "5", 50, "analysis 5")),),
    acts=(_act(5, "push", 1), _act(60, "scale", 1), _act(30, "push", 2), _act(90, "git", 0)),
)


async def test_a_rollout_goes_the_same_way() -> None:
    with taken_twice():
        await Teller(CANARY).tell()


@pytest.mark.parametrize("change", MUTATIONS, ids=lambda change: change.__name__.strip("_").replace("_", "-"))
async def test_recalling_too_much_is_found(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    with taken_twice(), pytest.raises(Differs):
        await Teller(CANARY).tell()
