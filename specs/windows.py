"""When rollouts may move: `"Mon-Fri 09:00-17:00"` on the wall clocks of a time zone.

Time zones are read where a spec file is read, and travel in the value: what decides later reads no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from datetime import time as clock_time
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
PATTERN = (
    r"^(([Mm]on|[Tt]ue|[Ww]ed|[Tt]hu|[Ff]ri|[Ss]at|[Ss]un)(-([Mm]on|[Tt]ue|[Ww]ed|[Tt]hu|[Ff]ri|[Ss]at|[Ss]un))?"
    r"(,([Mm]on|[Tt]ue|[Ww]ed|[Tt]hu|[Ff]ri|[Ss]at|[Ss]un)(-([Mm]on|[Tt]ue|[Ww]ed|[Tt]hu|[Ff]ri|[Ss]at|[Ss]un))?)*"
    r"|daily)( ([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00))?$"
)
"""Accepted texts, as a regular expression for JSON Schema."""

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)

LOOK_AHEAD = 15
"""Days. A week repeats itself, but for one night whose hour a change of clocks leaves out."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Hours of some days of the week on the clocks of `zone`. `days` count from Monday as 0.

    With `end` not after `start` it goes over midnight; `end` of a day is `24:00`, minute 1440.
    """

    is_allowed: bool
    days: frozenset[int]
    start: int
    end: int
    zone: tzinfo
    text: str

    def contains(self, at: datetime) -> bool:
        """Return whether a moment lies in it.

        Clocks decide: an hour that comes twice is in it twice, one that is left out is not there.
        """
        local = at.astimezone(self.zone)
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        begun = today in self.days and minute >= self.start
        return begun or ((today - 1) % 7 in self.days and minute < self.end)

    def edges(self, now: datetime) -> Iterator[datetime]:
        """Yield the moments from `now` on at which it may begin or end, both readings of a doubled hour."""
        first = now.astimezone(self.zone).date() - DAY
        for day in range(LOOK_AHEAD + 1):
            for minute in (self.start, self.end % 1440):
                clock = clock_time(minute // 60, minute % 60)
                for fold in (0, 1):
                    edge = datetime.combine(first + day * DAY, clock, self.zone).replace(fold=fold).astimezone(UTC)
                    if edge > now:
                        yield edge


def is_open(windows: Iterable[Window], at: datetime) -> bool:
    """Return whether rollouts may move: some `allow` holds (or there is none), and no `deny` does."""
    known = tuple(windows)
    allowed = [window for window in known if window.is_allowed]
    is_denied = any(window.contains(at) for window in known if not window.is_allowed)
    return not is_denied and (not allowed or any(window.contains(at) for window in allowed))


def opens_at(windows: Iterable[Window], now: datetime) -> datetime | None:
    """Return the next moment, to the minute, at which rollouts may move; None when none comes in two weeks."""
    known = tuple(windows)
    closed = now
    for edge in sorted({edge for window in known for edge in window.edges(now)}):
        if is_open(known, edge):
            return _earliest(known, closed, edge)
        closed = edge
    return None


def _earliest(windows: tuple[Window, ...], closed: datetime, opened: datetime) -> datetime:
    """Clocks that jump over the beginning of a window open it before the time that is written."""
    while opened - closed > MINUTE:
        middle = closed + (opened - closed) / 2
        if is_open(windows, middle):
            opened = middle
        else:
            closed = middle
    return opened.replace(second=0, microsecond=0) if opened.second == 0 else opened


def read_window(text: str, *, is_allowed: bool, zone: str) -> Window:
    """Read `"Mon-Fri 09:00-17:00"`. Raises ValueError with a sentence that says what to write instead."""
    if not re.fullmatch(PATTERN, text):
        raise ValueError(
            f"{text!r} is not a window: write days and hours, such as Mon-Fri 09:00-17:00, Sat,Sun or daily 22:00-06:00"
        )
    named, _, hours = text.partition(" ")
    start, end = (_minute(part) for part in (hours or "00:00-24:00").split("-"))
    if start == end:
        raise ValueError(f"{text!r} begins and ends at the same time: write 00:00-24:00 for whole days")
    return Window(
        is_allowed=is_allowed,
        days=frozenset(range(7)) if named == "daily" else frozenset(_days(named)),
        start=start,
        end=end,
        zone=read_zone(zone),
        text=f"{text} {zone}",
    )


def read_zone(name: str) -> tzinfo:
    """Return a time zone by its name in the IANA database. Raises ValueError when there is none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone: write a name such as Europe/Berlin or UTC") from None


def _days(named: str) -> Iterator[int]:
    for part in named.casefold().split(","):
        first, _, last = part.partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        yield from ((begin + step) % 7 for step in range((end - begin) % 7 + 1))


def _minute(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
