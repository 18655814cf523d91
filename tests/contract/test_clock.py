"""What every Clock promises, tried on virtual and on real time."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from reconciler.adapters.clock import SLEW, SteadyTime, SystemClock
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


class Machine:
    """A machine whose wall clock can be set."""

    def __init__(self) -> None:
        self.counter = 1000.0
        self.wall = 1_800_000_000.0

    def run(self, seconds: float) -> None:
        self.counter += seconds
        self.wall += seconds

    def steady(self, offset: float | None = None) -> SteadyTime:
        return SteadyTime(lambda: self.wall, lambda: self.counter, offset=offset)


HOUR = 3600.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_is_set_moves_no_deadline(jump: float) -> None:
    machine = Machine()
    time = machine.steady()
    machine.run(10)
    before = time.read()
    machine.wall += jump
    assert time.read() == before
    machine.run(600)
    assert time.read() - before == pytest.approx(600, rel=SLEW + 0.001)
    assert (time.read() - before > 600) == (jump > 0), "it follows, slowly"


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_time_meets_the_wall_clock_again_and_stays_with_it(jump: float) -> None:
    machine = Machine()
    time = machine.steady()
    machine.wall += jump
    last = time.read()
    for _ in range(25):
        machine.run(HOUR)
        assert time.read() > last
        last = time.read()
    assert last == pytest.approx(machine.wall)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_the_next_daemon_goes_on_where_time_was(jump: float) -> None:
    machine = Machine()
    time = machine.steady()
    machine.wall += jump
    before = time.read()
    machine.run(5)
    assert machine.steady(time.offset).read() == pytest.approx(before + 5)


@pytest.mark.parametrize("jump", [50 * 365 * 24 * HOUR, -50 * 365 * 24 * HOUR])
def test_a_clock_that_had_not_been_set_at_all_is_taken_over_when_nothing_hangs_on_it(jump: float) -> None:
    machine = Machine()
    time = machine.steady()
    machine.wall += jump
    before = time.read()
    again = machine.steady(time.offset)
    assert again.read() == pytest.approx(before), "a daemon that is started anew knows no more of it"
    assert again.catch_up() == pytest.approx(jump)
    assert again.read() == machine.wall


def test_a_clock_that_is_an_hour_off_is_met_slowly_even_when_nothing_hangs_on_it() -> None:
    machine = Machine()
    time = machine.steady()
    machine.wall += HOUR
    before = time.read()
    assert time.catch_up() == 0
    assert time.read() == before


def test_what_one_daemon_keeps_the_next_one_reads(tmp_path: Path) -> None:
    first = SystemClock(tmp_path)
    first.now()
    kept = json.loads((tmp_path / "clock").read_text())
    (tmp_path / "clock").write_text(json.dumps({**kept, "offset": kept["offset"] - HOUR}))
    behind = first.now() - SystemClock(tmp_path).now()
    assert timedelta(minutes=59) < behind <= timedelta(minutes=60, seconds=1)


@pytest.mark.parametrize("text", ["", "{}", '{"boot": "another", "offset": 5}', '{"boot": 1, "offset": "x"}'])
def test_what_another_boot_left_is_not_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "clock").write_text(text)
    assert abs(SystemClock(tmp_path).now() - SystemClock().now()) < timedelta(seconds=5)
