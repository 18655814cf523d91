"""The one place that reads the machine's clocks.

Deadlines, pauses and drains are differences of times, so a clock that is set forward by an hour would fail
rollouts that are well and cut requests that have time. Here time runs as the machine's own counter does, and
follows the wall clock slowly: nothing ever jumps, and no duration is more than `SLEW` off.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

log = structlog.get_logger("heliostat")

SLEW = 0.05
"""How much faster or slower than the machine's counter time may run to meet the wall clock again: an hour is
made up in 20 hours. More would shorten deadlines noticeably, less would show wrong times for days."""

NEVER_SET = timedelta(days=1)
"""A difference that is not made up slowly, as soon as no deadline hangs on it: such a clock had not been set at all."""

WORTH_TELLING = timedelta(seconds=5)
WORTH_KEEPING = timedelta(seconds=1)
"""How far time after a restart may be from time before it."""

FILE = "clock"
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Linux's name for this boot: the machine's counter means something only until the next one."""


class SteadyTime:
    """Seconds since the epoch that never jump and never go back, from a wall clock and a counter that runs on."""

    def __init__(self, wall: Callable[[], float], counter: Callable[[], float], *, offset: float | None = None) -> None:
        """`offset` is that of an earlier one on the same counter: its time goes on."""
        self._wall = wall
        self._counter = counter
        self._at = counter()
        self._time = wall() if offset is None else self._at + offset

    def catch_up(self) -> float:
        """Take the wall clock's time where that is too far away to be met; return by how many seconds that jumps.

        Only for when nothing is on its way: every time that was remembered is that much older or younger then.
        """
        if not self.is_astray():
            return 0.0
        behind = self.behind
        self._time += behind
        return behind

    def is_astray(self) -> bool:
        """Return whether the wall clock's time is too far away to be met."""
        self.read()
        return abs(self.behind) >= NEVER_SET.total_seconds()

    def read(self) -> float:
        """Return the time."""
        at = self._counter()
        passed = max(0.0, at - self._at)
        furthest = passed * SLEW
        self._time += passed
        self._time += max(-furthest, min(furthest, self.behind))
        self._at = at
        return self._time

    @property
    def behind(self) -> float:
        """Return how many seconds the wall clock was ahead at the last reading; negative when it is late."""
        return self._wall() - self._time

    @property
    def offset(self) -> float:
        """Return what another one needs to go on from here."""
        return self._time - self._at


class SystemClock:
    """Real time: implements `reconciler.ports.Clock`."""

    def __init__(self, folder: Path | None = None) -> None:
        """With a folder, time goes on where an earlier clock on it left off, as long as the machine is up."""
        self._path = folder / FILE if folder else None
        boot = BOOT.read_text().strip() if folder else ""
        self._boot = boot
        kept = _read(self._path, boot) if self._path else None
        self._kept = kept if kept is not None else float("-inf")
        self._time = SteadyTime(time.time, _machine, offset=kept)
        self._is_told = False

    def now(self) -> datetime:
        """Return the current time in UTC."""
        seconds = self._time.read()
        self._tell()
        self._keep()
        return datetime.fromtimestamp(seconds, tz=UTC)

    def is_astray(self) -> bool:
        """Return whether the wall clock's time is too far away to be met."""
        return self._time.is_astray()

    def catch_up(self) -> None:
        """Take the wall clock's time where that is too far away to be met; only for when nothing is on its way."""
        by = self._time.catch_up()
        if by:
            log.warning("the machine's clock was set while nothing was moving: its time holds from now on", by=by)

    def wall(self) -> datetime:
        """Return what the machine's wall clock shows, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, duration: timedelta) -> None:
        """Wait; not at all when `duration` is negative."""
        await asyncio.sleep(max(duration.total_seconds(), 0.0))

    def _tell(self) -> None:
        """Say once that the machine's clock was set."""
        behind = timedelta(seconds=round(self._time.behind))
        if abs(behind) >= WORTH_TELLING and not self._is_told:
            log.warning(
                "the machine's clock was set; deadlines go on as they were, and times follow it slowly", by=behind
            )
            self._is_told = True
        elif abs(behind) < WORTH_KEEPING:
            self._is_told = False

    def _keep(self) -> None:
        """Leave for the next daemon what time it is here; without room on the disk it takes the wall clock's."""
        if self._path is None or abs(self._time.offset - self._kept) < WORTH_KEEPING.total_seconds():
            return
        self._kept = self._time.offset
        with suppress(OSError):
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps({"boot": self._boot, "offset": self._kept}))
            fresh.replace(self._path)


def _machine() -> float:
    """Seconds since the machine was started, sleep included; nobody can set them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(path: Path, boot: str) -> float | None:
    """Return the offset that was kept during this boot of the machine, or None."""
    try:
        kept = json.loads(path.read_text())
        return float(kept["offset"]) if kept["boot"] == boot else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
