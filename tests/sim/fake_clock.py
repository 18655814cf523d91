"""Virtual time: a simulated hour passes in an instant, and always the same way."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

from reconciler.adapters.clock import SteadyTime

START = datetime(2026, 1, 1, tzinfo=UTC)

BOOT = START - timedelta(days=3)
"""When the machine was started."""

_TURNS = 20
"""Turns of the event loop that whoever woke up gets before time moves on: chains of awaits settle in them."""


class FakeClock:
    """Implements `reconciler.ports.Clock`. Only `advance` moves it."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._order = count()
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the virtual time."""
        return self._now

    def wall(self) -> datetime:
        """Return the same: nobody sets this machine's clock."""
        return self._now

    async def sleep(self, duration: timedelta) -> None:
        """Wait until `advance` has moved time by `duration`."""
        if duration <= timedelta(0):
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + duration, next(self._order), woken))
        await woken

    async def advance(self, duration: timedelta) -> None:
        """Move time forward, waking sleepers one by one in the order of their deadlines."""
        until = self._now + duration
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            deadline, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, deadline)
            if not woken.done():
                woken.set_result(None)
                await settle()
        self._now = until
        await settle()

    def jump(self, duration: timedelta) -> None:
        """Move time forward without letting anybody run: for tests that await nothing in between."""
        self._now += duration

    @property
    def next_deadline(self) -> datetime | None:
        """Return when the next sleeper wakes, or None when nobody sleeps."""
        return min((deadline for deadline, _, woken in self._sleepers if not woken.done()), default=None)


class DaemonClock:
    """The daemon's clock: real steady time on a machine whose wall clock people and accidents set.

    `skew` is shared by all daemons of a machine; `offset` is what the one before left in its state folder.
    """

    def __init__(self, clock: FakeClock, skew: Callable[[], timedelta], *, offset: float | None = None) -> None:
        self._clock = clock
        self._skew = skew
        self._time = SteadyTime(
            lambda: clock.now().timestamp() + skew().total_seconds(),
            lambda: (clock.now() - BOOT) / timedelta(seconds=1),
            offset=offset,
        )

    @property
    def offset(self) -> float:
        """Return what the next daemon goes on with."""
        return self._time.offset

    def now(self) -> datetime:
        """Return the time as the daemon knows it."""
        return datetime.fromtimestamp(self._time.read(), tz=UTC)

    def catch_up(self) -> None:
        """Do what a daemon's clock does when it starts and nothing is on its way."""
        self._time.catch_up()

    def wall(self) -> datetime:
        """Return what the machine's clock shows."""
        return self._clock.now() + self._skew()

    async def sleep(self, duration: timedelta) -> None:
        """Wait until `advance` has moved time by `duration`."""
        await self._clock.sleep(duration)


async def settle() -> None:
    """Let every task run until it waits for time or for something outside."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
