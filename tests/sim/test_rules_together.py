"""All that holds rollouts back, together: dependencies, groups, windows, places, surge, gates, analyses. All arrive."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies.pacing
from specs.windows import Window
from tests.sim.scenarios import ACCIDENTS, NAMES, PEOPLE, Act, Story, Teller, stories
from tests.sim.test_analysis import asking
from tests.sim.test_order import OK, windows
from tests.sim.test_properties import SEEDS, lives

pytestmark = pytest.mark.timeout(max(300, SEEDS * 20))


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Who waits for whom, and for what."""

    windows: tuple[Window, ...]
    moving: int
    surge: int | None
    """What the largest service needs at least, or nobody could say that it arrives."""
    has_needs: bool
    has_group: bool
    has_analysis: bool


rules = st.builds(
    Rules,
    windows=st.one_of(st.just(()), windows),
    moving=st.integers(1, 3),
    surge=st.sampled_from([None, 2, 3]),
    has_needs=st.booleans(),
    has_group=st.booleans(),
    has_analysis=st.booleans(),
)


async def _tell(story: Story, rules: Rules) -> None:
    # Who cannot have both revisions at once has nothing to compare, and waits for a person.
    if rules.has_analysis and all(shape.surge for shape in story.shapes):
        story = asking(story)
    teller = Teller(story, moving=rules.moving)
    teller.settings = replace(teller.settings, windows=rules.windows, max_surge_replicas=rules.surge)
    if rules.has_needs:
        teller.needs = {name: NAMES[:index] for index, name in enumerate(NAMES)}
    if rules.has_group:
        teller.groups = dict.fromkeys(NAMES, "search")
    try:
        await teller.tell()
    except AssertionError as broken:
        raise AssertionError(f"{broken}\n{story}\n{rules}\n{teller.sim.describe()}") from broken


@lives
@given(story=stories(*PEOPLE, services=3, acts=10), rules=rules)
async def test_whatever_people_do(story: Story, rules: Rules) -> None:
    await _tell(story, rules)


@lives
@given(story=stories(*PEOPLE, *ACCIDENTS, "gate", "gate", services=3, acts=12, gated=True), rules=rules)
async def test_everything_at_once(story: Story, rules: Rules) -> None:
    await _tell(story, rules)


WAITS = Story(seed=0, shapes=(OK, OK), acts=(Act(after=5, what="push", service=0, number=1),))
TWO = Rules(windows=(), moving=2, surge=2, has_needs=True, has_group=True, has_analysis=False)


async def test_surge_that_is_kept_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    await _tell(WAITS, TWO)
    monkeypatch.setattr(policies.pacing, "held_by", lambda view: 2)
    with pytest.raises(AssertionError, match="not within 2400 s: all at the last version"):
        await _tell(WAITS, TWO)
