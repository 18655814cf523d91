"""Durations as specs write them: Go style, such as `30s`, `5m`, `1h30m` or `250ms`."""

from __future__ import annotations

import re
from datetime import timedelta

PATTERN = r"^(0|([0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h))+)$"
"""Accepted texts, as a regular expression for JSON Schema."""

LONGEST = timedelta(hours=8760)
"""Beyond a year a duration is a typing error, and far beyond it timedelta overflows."""

_UNITS = {
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)")


def parse_duration(text: str) -> timedelta:
    """Read a duration. Raises ValueError with a sentence that says what to write instead."""
    if not re.fullmatch(PATTERN, text):
        raise ValueError(f"{text!r} is not a duration: write a number with a unit, such as 30s, 5m, 1h30m or 250ms")
    seconds = sum(float(number) * _UNITS[unit].total_seconds() for number, unit in _PART.findall(text))
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{text!r} is longer than a year: write at most {format_duration(LONGEST)}")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """Return the shortest text that `parse_duration` reads back, such as `1h30m`; fractions in milliseconds."""
    left = round(duration / _UNITS["ms"])
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
