"""Random lives of services hold the invariants I1-I7, and every service arrives (I9).

The checks themselves are in `invariants.py`; each is seen to bite in `test_mutations.py`. HELIOSTAT_SEEDS sets
how many lives each property looks at; HELIOSTAT_RANDOM=1 takes new ones each time.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.sim.scenarios import ACCIDENTS, LOSSES, OUTAGES, PEOPLE, Story, Teller, stories

IS_FULL = "HELIOSTAT_SEEDS" in os.environ
SEEDS = int(os.environ.get("HELIOSTAT_SEEDS", "6"))

lives = settings(
    max_examples=SEEDS,
    derandomize=not os.environ.get("HELIOSTAT_RANDOM"),
    deadline=None,
    database=None,
    # Shrinking takes minutes; a full run may have them.
    phases=[Phase.generate, Phase.shrink] if IS_FULL else [Phase.generate],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)

pytestmark = pytest.mark.timeout(max(300, SEEDS * 10))


async def _tell(story: Story) -> Teller:
    teller = Teller(story)
    try:
        await teller.tell()
    except AssertionError as broken:
        raise AssertionError(f"{broken}\n{story}\n{teller.sim.describe()}") from broken
    return teller


@lives
@given(story=stories("push", "push", "revert", "scale", services=1))
async def test_commits_alone(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories(*PEOPLE, services=2))
async def test_whatever_people_do(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories("push", "push", "revert", "crash", "crash", "kill", services=1))
async def test_dying_at_any_effect(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories("push", "push", *OUTAGES, services=2))
async def test_blindness(story: Story) -> None:
    teller = await _tell(story)
    for name, revision in teller.sim.watch.ever_barred:
        assert not teller.shape(name).is_good(revision), f"I4: {revision} of {name} is good and was taken back"


@lives
@given(story=stories("push", "push", *LOSSES, services=1))
async def test_a_cluster_that_loses_things(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories("push", "push", "revert", "rollback", "rollback", "abort", "retry", "withdraw", services=1))
async def test_a_way_back_that_is_no_more(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories("push", "push", "gate", "gate", "promote", "full", "pause", "abort", services=1, gated=True))
async def test_gates_that_say_what_they_like(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories("push", "push", "sicken", "sicken", "rollback", "abort", "withdraw", "full", services=1))
async def test_what_gets_worse_after_it_took_over(story: Story) -> None:
    shapes = tuple(replace(shape, bake=40) for shape in story.shapes)
    await _tell(replace(story, shapes=shapes))


@lives
@given(story=stories(*PEOPLE, *ACCIDENTS, "gate", "gate", services=2, acts=12, gated=True))
async def test_gates_and_everything_else(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories(*PEOPLE, *ACCIDENTS, services=3, acts=12))
async def test_everything_at_once(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories("push", "push", "push", "revert", "scale", "demand", services=1, reshapes=True))
async def test_revisions_with_other_deployments_and_other_ways_to_scale(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories(*PEOPLE, *ACCIDENTS, services=2, acts=12, reshapes=True))
async def test_everything_at_once_and_revisions_of_other_shapes(story: Story) -> None:
    await _tell(story)


@lives
@given(story=stories("push", services=3, acts=1), limit=st.integers(1, 3))
async def test_many_services_moving_at_once_all_finish(story: Story, limit: int) -> None:
    teller = Teller(story, moving=limit)
    await teller.tell()
    moving = teller.sim.watch.most_moving
    assert moving <= limit, f"{moving} services moved at once, {limit} may"
