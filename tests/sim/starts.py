"""Who starts what, and why: by itself the daemon starts a revision once, and does not make what it took away."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from specs.cells import CellKey
from specs.desired import DesiredService
from specs.memory import CellMemory, ServiceMemory
from specs.placement import Site


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


SOON = timedelta(minutes=5)
"""A cell that is made again this soon after its retirement could as well have stayed."""

MOST = 2
"""So often a rollout may change its mind about one place: it goes on, and steps, room and zones change with it."""

Place = tuple[str, str, bool, Site]
"""Service, revision, whether it is a baseline, and where."""


class Returns:
    """Cells made again where one of the same revision was just retired, since something happened outside the daemon."""

    def __init__(self) -> None:
        self._cells: dict[str, dict[CellKey, bool]] = {}
        self._ended: dict[Place, datetime] = {}
        self._again: dict[Place, list[datetime]] = {}
        self._nodes: object = None

    def stirred(self) -> None:
        """A commit, an order, an accident: what was right a moment ago need not be right any more."""
        self._again.clear()

    def looked(self, nodes: object) -> None:
        """Nodes that came or went are a cause, too."""
        if nodes != self._nodes:
            self.stirred()
        self._nodes = nodes

    def saved(self, memory: ServiceMemory, now: datetime) -> str:
        """Return a cell that is made once more than anything but going to and fro explains; "" when none is."""
        before = self._cells.get(memory.name, {})
        self._cells[memory.name] = {cell.key: cell.is_retired for cell in memory.cells}
        made = [cell for cell in memory.cells if cell.key not in before]
        again = [cell.key.name for cell in made if self._is_one_more(_place(cell), now)]
        self._ended |= {_place(cell): now for cell in memory.cells if cell.is_retired and not before.get(cell.key)}
        return next(iter(again), "")

    def _is_one_more(self, place: Place, now: datetime) -> bool:
        if place not in self._ended or now - self._ended[place] >= SOON:
            return False
        self._again[place] = [*(at for at in self._again.get(place, ()) if now - at < SOON), now]
        return len(self._again[place]) > MOST


def _place(cell: CellMemory) -> Place:
    return cell.key.service, cell.key.revision, cell.is_baseline, cell.key.site
