"""The log of what was decided and of what is in the way, from each turn of the loop."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from reconciler.loop import Tick
from specs.effects import SaveMemory
from specs.memory import Event

log = structlog.get_logger("heliostat")

LONGEST_MESSAGE = 2_000
"""A traceback's end names its cause; the whole of it is in the event."""


def saved_events(tick: Tick) -> tuple[Event, ...]:
    """Return the events that a turn has saved: others are not true yet."""
    return tuple(event for effect in tick.results.done if isinstance(effect, SaveMemory) for event in effect.events)


class Journal:
    """Writes each saved event once, and each problem when it comes and when it is over."""

    def __init__(self) -> None:
        """Nothing is known to be wrong yet."""
        self._problem = ""
        self._errors: tuple[str, ...] = ()
        self._held: Mapping[str, str] = {}

    def ticked(self, tick: Tick) -> None:
        """Write what is new in this turn."""
        for event in saved_events(tick):
            tell = log.warning if event.is_warning else log.info
            tell(event.kind, service=event.service, message=event.message[-LONGEST_MESSAGE:], by=event.by)
        self._tell_problem(tick.status.problem)
        self._tell_errors(tick.status.errors)
        self._tell_reasons({service.name: service.reason.value for service in tick.status.services}, tick)

    def _tell_problem(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("something is in the way", problem=problem)
        elif self._problem and not problem:
            log.info("nothing is in the way any more", problem=self._problem)
        self._problem = problem

    def _tell_errors(self, errors: tuple[str, ...]) -> None:
        for error in errors:
            if error not in self._errors:
                log.warning("spec file is wrong", where=error)
        self._errors = errors

    def _tell_reasons(self, held: Mapping[str, str], tick: Tick) -> None:
        """Say why a service stands where it stands, whenever the reason is another one."""
        for service in tick.status.services:
            if self._held.get(service.name) != service.reason.value:
                text = service.message[-LONGEST_MESSAGE:]
                log.info("stands", service=service.name, reason=service.reason.value, message=text)
        self._held = held
