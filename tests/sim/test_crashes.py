"""The daemon dies at each single effect of a story, and comes back: nothing is lost, doubled, or jumps.

An effect is a save or what a save guards, so "before" and "after" each of them are all points of the journal,
the one between a save and its effect included. Every point is tried: a few lives with many deaths here, and one
life for each single death in test-full.
"""

from __future__ import annotations

import pytest

from tests.sim.courses import COURSES, Course, Meddle, ending, tell, undisturbed
from tests.sim.world import Simulation

LIVES = 6
"""Lives per story: the daemon dies at every sixth effect, each life beginning one later."""

DOWNTIMES = {False: 0, True: 20}
"""Seconds until a daemon is back that died before, or after, an effect: at once, or when the world has moved on."""


def dying(at: int, *, is_after: bool, every: int = 0) -> Meddle:
    def meddle(sim: Simulation) -> None:
        sim.crash.arm(at, is_after=is_after, every=every)

    return meddle


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("first", range(1, LIVES + 1))
@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.name)
async def test_dying_again_and_again_changes_nothing_of_the_story(course: Course, first: int, is_after: bool) -> None:
    calm = await undisturbed(course)
    sim = await tell(course, dying(first, is_after=is_after, every=LIVES), downtime=DOWNTIMES[is_after])
    # What begins and ends while no daemon runs (a wait) is never noted: an absence spares an effect or two.
    assert sim.crashes >= (calm.crash.count - first) // LIVES
    assert ending(sim) == ending(calm)
    assert sim.serve.peak("chat", "Echo") <= course.size + 1


@pytest.mark.slow
@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("course", "effect"),
    [(course, effect) for course in COURSES for effect in range(1, course.effects + 1)],
    ids=lambda value: value.name if isinstance(value, Course) else str(value),
)
async def test_dying_at_one_effect_changes_nothing_of_the_story(course: Course, effect: int, is_after: bool) -> None:
    sim = await tell(course, dying(effect, is_after=is_after), downtime=DOWNTIMES[is_after])
    assert ending(sim) == ending(await undisturbed(course))
    assert sim.serve.peak("chat", "Echo") <= course.size + 1


async def test_the_stories_have_two_hundred_points_at_which_to_die() -> None:
    told = {course.name: await undisturbed(course) for course in COURSES}
    counts = {name: sim.crash.count for name, sim in told.items()}
    assert 2 * sum(counts.values()) >= 200
    assert all(counts[course.name] <= course.effects for course in COURSES), counts
    assert all(sim.watch.requests.answered > 0 for sim in told.values())
    assert told["rollout"].memory().stable == "v2"
    assert told["rollback"].memory().quarantine
