"""The machine's clock is set by an hour, at any moment: no deadline strikes early, and nothing waits an hour longer."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.adapters.clock import SLEW, SteadyTime
from reconciler.planning import perceive
from tests.sim.courses import COURSES, ROLLOUT, Course, Meddle, ending, tell, undisturbed
from tests.sim.world import Simulation

HOUR = timedelta(hours=1)
YEARS = timedelta(days=4 * 365)
EVERY = 20
"""Seconds between the jumps of one story; each story's first one comes a little later."""


def jumping(first: int, by: timedelta, *, restarts: bool) -> Meddle:
    """Let the clock jump again and again, there and back, so that each jump is one of an hour."""

    def meddle(sim: Simulation) -> None:
        for number, second in enumerate(range(first, 400, EVERY)):
            sim.later(second, lambda sign=1 - 2 * (number % 2): sim.clock_jumps(sign * by))  # type: ignore[misc]
            if restarts:
                sim.later(second, lambda: None if sim.known() is None or sim.is_settled() else sim.kill())

    return meddle


def seconds_told(sim: Simulation) -> float:
    """Return how long the rollout took by the true clock."""
    told = [event.at for event in sim.events() if event.kind in ("RolloutStarted", "CellRetired")]
    return (told[-1] - told[1]).total_seconds()


@pytest.mark.parametrize("restarts", [False, True], ids=["", "and-the-daemon-restarts"])
@pytest.mark.parametrize("by", [HOUR, -HOUR, YEARS, -YEARS], ids=["forward", "back", "years-forward", "years-back"])
@pytest.mark.parametrize("first", [1, 7, 13])
@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.name)
async def test_a_jump_changes_nothing_of_the_story(course: Course, first: int, by: timedelta, restarts: bool) -> None:
    sim = await tell(course, jumping(first, by, restarts=restarts))
    calm = await undisturbed(course)
    assert ending(sim) == ending(calm)
    assert seconds_told(sim) == pytest.approx(seconds_told(calm), rel=SLEW, abs=5)


@pytest.mark.parametrize("by", [YEARS, -YEARS], ids=["forward", "back"])
async def test_a_clock_years_off_is_followed_when_nothing_moves_and_left_when_it_is_put_right(by: timedelta) -> None:
    sim = await tell(ROLLOUT)
    for version in ("v3", "v4"):
        sim.clock_jumps(by)
        sim.kill()
        await sim.run(30)
        assert sim.tick is not None
        assert abs(sim.tick.world.now - sim.clock.now() - sim.skew) < timedelta(seconds=5)
        sim.push(ROLLOUT.spec(version))
        await sim.until(lambda version=version: sim.weights().get(version, 0) >= 25, within=120)  # type: ignore[misc]
        by = -by
        sim.clock_jumps(by)
        sim.kill()
        await sim.settle()
        assert (sim.memory().stable, sim.memory().quarantine) == (version, ())
        sim.clock_jumps(-by)


async def test_a_machine_that_comes_up_with_an_older_time_does_not_wait_for_the_old_one() -> None:
    """After a boot nothing tells a wrong clock from a long absence, except that time went back."""

    def reboot(sim: Simulation) -> None:
        sim.kill()
        sim.forget_time()
        sim.clock_jumps(-HOUR)

    for second in (45, 90, 130):
        sim = await tell(ROLLOUT, lambda sim, at=second: sim.later(at, lambda: reboot(sim)))  # type: ignore[misc]
        assert ending(sim) == ending(await undisturbed(ROLLOUT))


async def _ends_otherwise(meddle: Meddle) -> bool:
    try:
        sim = await tell(ROLLOUT, meddle)
    except AssertionError:
        return True
    return ending(sim) != ending(await undisturbed(ROLLOUT))


async def test_following_the_wall_clock_at_once_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    await undisturbed(ROLLOUT)
    monkeypatch.setattr(SteadyTime, "read", lambda time: time._wall())
    found = [await _ends_otherwise(jumping(first, HOUR, restarts=False)) for first in (1, 7, 13)]
    assert any(found)


async def test_waiting_for_a_future_that_was_remembered_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    await undisturbed(ROLLOUT)
    monkeypatch.setattr(perceive, "_on_this_clock", lambda view: view)
    with pytest.raises(AssertionError, match="not within"):
        await test_a_machine_that_comes_up_with_an_older_time_does_not_wait_for_the_old_one()
