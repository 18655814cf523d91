"""Numbers and times as people read them on the status page."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from specs.status import StagingStatus

MINUTE, HOUR, DAY = 60, 3600, 86400


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago, in one unit: `12 s ago`; a moment to come reads `in 12 s`."""
    left = (moment - now).total_seconds()
    if left >= 1:
        return f"in {span(timedelta(seconds=left))}"
    return "just now" if left > -2 else f"{span(timedelta(seconds=-left))} ago"


def span(duration: timedelta) -> str:
    """Return a duration in its largest fitting unit."""
    seconds = duration.total_seconds()
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= size:
            return f"{seconds // size:g} {unit}"
    return f"{seconds:.0f} s"


def count(number: float) -> str:
    """Return `1,234`, or `1.2 M` from a million on."""
    return f"{number / 1_000_000:.1f} M" if number >= 1_000_000 else f"{number:,.0f}"


def percent(share: float) -> str:
    """Return `10%`, with as many decimals as the share has and at most two; a tiny share is never `0%`."""
    if 0 < share < 0.01:
        return "<0.01%"
    return f"{share:.2f}".rstrip("0").rstrip(".") + "%"


def seconds(duration: float | None) -> str:
    """Return a latency: `11 ms`, `1.2 s`, `-` without requests."""
    if duration is None:
        return "-"
    return f"{duration * 1000:.3g} ms" if duration < 0.9995 else f"{duration:.3g} s"


def staging_text(found: StagingStatus) -> str:
    """Return `1.2 of 4.0 GiB in all, 1 of 3 node(s) ended`; "" while nothing is known."""
    if not found.nodes:
        return ""
    ended = f"{found.ended} of {found.nodes} node(s) ended"
    if not found.size:
        return ended
    unit, name = (1 << 30, "GiB") if found.size >= 1 << 30 else (1 << 20, "MiB")
    return f"{found.done / unit:.1f} of {found.size / unit:.1f} {name} in all, {ended}"


def spaced(name: str) -> str:
    """Return CamelCase as words: `Capacity budget`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r" \1", name).capitalize()


def short_commit(commit: str) -> str:
    """Return `main@4f2c9d1e` for `main@sha1:4f2c9d1e0b...`."""
    branch, _, digest = commit.rpartition("@sha1:")
    return f"{branch}@{digest[:8]}" if branch else commit
