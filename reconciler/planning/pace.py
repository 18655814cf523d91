"""How long things take on a cluster, as far as a service's last rollouts tell."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from specs.desired import DesiredService
from specs.memory import Event

LONGEST_BUILD = timedelta(seconds=5)
"""Of the time from creating a cell to its first request, at most this much is taken for building it."""

LOOKS = timedelta(seconds=4)
"""From losing its weight to being retired a revision takes a few looks, also when nothing keeps it."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long things take for one service.

    To build the application, to start a replica, and to stop an idle one. `answer` is how long the last requests of
    a cell go on when no more of them come.
    """

    build: timedelta = timedelta(seconds=5)
    start: timedelta = timedelta(seconds=10)
    stop: timedelta = timedelta(seconds=3)
    answer: timedelta = timedelta(0)


def pace_of(service: DesiredService, events: Iterable[Event]) -> tuple[Pace, str]:
    """Return how long things take, from the service's last rollouts where there were any, and that in words."""
    events = tuple(events)
    took = _starts(events)
    if not took:
        pace = Pace()
        total = (pace.build + pace.start).total_seconds()
        return pace, f"{service.name}: {total:g} s to build and start, as no rollout of it is remembered"
    whole = max(timedelta(seconds=1), _usual(took) - service.rollout.min_ready)
    build = min(LONGEST_BUILD, whole / 2)
    answer = min(_usual(_waits(service, events)), service.revision.max_request_duration)
    last = f", {answer.total_seconds():.0f} s until the last requests of a revision end" if answer else ""
    text = f"{service.name}: {whole.total_seconds():.0f} s to build and start{last}, as in its last rollouts"
    return Pace(build=build, start=whole - build, answer=answer), text


def _starts(events: Iterable[Event]) -> list[timedelta]:
    """Return how long it took from creating a cell to its first requests."""
    created: dict[str, datetime] = {}
    took: list[timedelta] = []
    for event in events:
        if event.kind == "CellCreated":
            created[event.revision] = event.at
        elif event.kind == "WeightsChanged":
            for revision in [one for one in created if one in event.message]:
                took.append(event.at - created.pop(revision))
    return took


def _waits(service: DesiredService, events: Iterable[Event]) -> list[timedelta]:
    """Return how long revisions without weight waited for their last requests, where it was these they waited for."""
    kept = max(service.rollout.scale_down_delay, service.rollout.bake) + LOOKS
    carrying: set[str] = set()
    left: dict[str, datetime] = {}
    waits: dict[tuple[str, datetime], timedelta] = {}
    for event in events:
        if event.kind == "WeightsChanged":
            now = {share.rpartition(" ")[0] for share in event.message.split(", ") if share.endswith("%")}
            left = {one: at for one, at in left.items() if one not in now} | dict.fromkeys(carrying - now, event.at)
            carrying = now
        elif event.kind == "CellRetired" and event.revision in left:
            waits[event.revision, left[event.revision]] = event.at - left[event.revision]
    return [wait for wait in waits.values() if wait > kept]


def _usual(took: list[timedelta]) -> timedelta:
    """Return the median of the last ones; nothing where nothing is known."""
    return timedelta(seconds=statistics.median(one.total_seconds() for one in took[-5:])) if took else timedelta(0)
