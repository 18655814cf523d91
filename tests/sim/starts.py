"""Who starts what, and why: by itself the daemon starts a revision once, and then leaves it alone."""

from __future__ import annotations

from collections.abc import Iterable

from specs.desired import DesiredService
from specs.memory import ServiceMemory


class Starts:
    """Rollouts begun per service since a commit or a person last changed what it is to be."""

    def __init__(self) -> None:
        self._wanted: dict[str, str] = {}
        self._begun: dict[str, set[str]] = {}
        self._candidates: dict[str, str | None] = {}

    def pushed(self, services: Iterable[DesiredService]) -> None:
        """A commit that wants another revision, or that a service leaves or comes back with, is a new course."""
        wanted = {service.name: service.revision.id for service in services}
        for name in {name for name in wanted | self._wanted if wanted.get(name) != self._wanted.get(name)}:
            self.moved_by_people(name)
        self._wanted = wanted

    def moved_by_people(self, name: str) -> None:
        """Somebody gave an order: what it leads to is theirs."""
        self._begun.pop(name, None)

    def saved(self, memory: ServiceMemory) -> str:
        """Return the revision that is started a second time on the same course; "" when none is."""
        before, now = self._candidates.get(memory.name), memory.candidate
        self._candidates[memory.name] = now
        if now is None or now == before:
            return ""
        begun = self._begun.setdefault(memory.name, set())
        if now in begun:
            return now
        begun.add(now)
        return ""
