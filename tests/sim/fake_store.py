"""A Store in memory that can be made to fail, or to crash the daemon right before or right after a save."""

from __future__ import annotations

from dataclasses import replace

from reconciler.errors import PortError, Stalled
from specs.compaction import CompactionMemory
from specs.effects import SaveMemory
from specs.memory import Event, HistoryEntry, Memory, ServiceMemory
from specs.preemption import PreemptionMemory


class Crashed(BaseException):
    """The daemon died here. Not an Exception: nothing in the daemon may survive it."""


class FakeStore:
    """`ports.Store`. What it holds outlives the daemon under test, as a disk would."""

    def __init__(self) -> None:
        self.saves = 0
        self.failure: PortError | None = None
        """Raised by every call until it is None again; nothing is saved meanwhile."""
        self.full = ""
        """While set, saves raise Stalled with this text; what is there can be read, as on a full disk."""
        self.crash_before: int | None = None
        """The number of the save (from 1) that the daemon does not live to make."""
        self.crash_after: int | None = None
        """The number of the save that is kept, but whose return the daemon does not live to see."""
        self._services: dict[str, ServiceMemory] = {}
        self._compaction = CompactionMemory()
        self._preemption = PreemptionMemory()
        self._events: list[Event] = []
        self._history: list[HistoryEntry] = []

    async def load(self) -> Memory:
        self._check()
        services = dict(sorted(self._services.items()))
        return Memory(services=services, compaction=self._compaction, preemption=self._preemption)

    async def save(self, change: SaveMemory) -> int:
        self._check()
        if self.full:
            raise Stalled(self.full)
        self.saves += 1
        if self.saves == self.crash_before:
            raise Crashed(f"before save {self.saves}")
        self._services.update({service.name: service for service in change.services})
        for name in change.forgotten:
            self._services.pop(name, None)
        self._compaction = change.compaction or self._compaction
        self._preemption = change.preemption or self._preemption
        first = self._events[-1].id + 1 if self._events else 1
        self._events.extend(replace(event, id=first + place) for place, event in enumerate(change.events))
        self._history.extend(change.history)
        if self.saves == self.crash_after:
            raise Crashed(f"after save {self.saves}")
        return self._events[-1].id if change.events else 0

    async def events(self, *, service: str | None = None, since: int = 0, limit: int = 200) -> tuple[Event, ...]:
        self._check()
        fitting = [event for event in self._events if event.id > since and service in (None, event.service)]
        return tuple(fitting[:limit] if since else fitting[max(0, len(fitting) - limit) :])

    async def history(self, service: str) -> tuple[HistoryEntry, ...]:
        self._check()
        return tuple(entry for entry in reversed(self._history) if entry.service == service)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
