"""What every Clock promises, tried on virtual and on real time."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta

import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.ports import Clock
from tests.sim.fake_clock import FakeClock, settle

SHORT = timedelta(milliseconds=30)


@pytest.fixture(params=[FakeClock, SystemClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


async def wait(clock: Clock, duration: timedelta) -> None:
    """Wait on a clock, moving it when it does not move itself."""
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(clock.sleep(duration))
        if isinstance(clock, FakeClock):
            await clock.advance(max(duration, timedelta(0)))


async def test_time_is_utc_and_moves_by_what_was_slept(clock: Clock) -> None:
    before = clock.now()
    assert before.tzinfo is UTC
    await wait(clock, SHORT)
    assert SHORT <= clock.now() - before < timedelta(seconds=5)


@pytest.mark.parametrize("duration", [timedelta(0), timedelta(seconds=-1)])
async def test_a_deadline_that_has_passed_is_not_waited_for(clock: Clock, duration: timedelta) -> None:
    async with asyncio.timeout(1):
        await clock.sleep(duration)


async def test_virtual_time_wakes_sleepers_in_the_order_of_their_deadlines() -> None:
    clock = FakeClock()
    woken: list[tuple[float, str]] = []
    start = clock.now()

    async def sleeper(name: str, *durations: float) -> None:
        for duration in durations:
            await clock.sleep(timedelta(seconds=duration))
            woken.append(((clock.now() - start).total_seconds(), name))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("a", 3, 3))
        group.create_task(sleeper("b", 1, 1, 1, 1))
        await clock.advance(timedelta(seconds=3.5))
        assert woken == [(1, "b"), (2, "b"), (3, "a"), (3, "b")]
        assert clock.next_deadline == start + timedelta(seconds=4)
        await clock.advance(timedelta(hours=1))
    assert woken[4:] == [(4, "b"), (6, "a")]
    assert clock.now() - start == timedelta(seconds=3603.5)


async def test_virtual_time_stands_still_by_itself() -> None:
    clock = FakeClock()
    async with asyncio.TaskGroup() as group:
        sleeping = group.create_task(clock.sleep(SHORT))
        await settle()
        assert not sleeping.done()
        clock.jump(SHORT * 2)
        await settle()
        assert not sleeping.done()
        await clock.advance(timedelta(0))
        assert sleeping.done()
