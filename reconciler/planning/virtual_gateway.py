"""The gateway of a cluster in virtual time: which cell has which weight, and which still answers its last requests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from specs.observed import GatewaySeen, LaneSeen
from specs.routes import RouteTable


class VirtualGateway:
    """Takes route tables; a cell that lost its weight has requests in flight for a while."""

    def __init__(self, seen: GatewaySeen | None, now: datetime, lasting: Callable[[str], timedelta]) -> None:
        """`lasting` is how long the last requests of a cell go on, by its name."""
        self._is_direct = seen is None or seen.is_direct
        self._lasting = lasting
        lanes = seen.lanes if seen is not None else ()
        self._weights = {lane.cell: lane.weight for lane in lanes}
        self._left = set(seen.drained) if seen is not None else set()
        self._busy = {lane.cell: now + lasting(lane.cell) for lane in lanes if lane.in_flight and not lane.weight}

    def route(self, table: RouteTable, now: datetime) -> None:
        """Take a new table."""
        before = self._weights
        self._weights = {cell.cell: cell.weight for row in table.services for cell in row.cells}
        self._left |= before.keys()
        for cell in before:
            if before[cell] and not self._weights.get(cell) and self._lasting(cell):
                self._busy[cell] = now + self._lasting(cell)

    def seen(self, up: Callable[[str], frozenset[str]]) -> GatewaySeen:
        """Return what a daemon would see; `up` are the replicas of a cell that answer."""
        lanes = [
            LaneSeen(
                cell=cell,
                weight=self._weights.get(cell, 0),
                up=up(cell) if self._is_direct else frozenset(),
                in_flight=int(cell in self._busy),
            )
            for cell in sorted(self._weights.keys() | self._busy.keys())
        ]
        drained = frozenset(self._left - self._weights.keys() - self._busy.keys())
        return GatewaySeen(is_direct=self._is_direct, lanes=tuple(lanes), drained=drained)

    def ends(self) -> list[datetime]:
        """Return when the last requests of cells without weight end."""
        return list(self._busy.values())

    def end(self, now: datetime) -> None:
        """End the requests that are over by now."""
        self._busy = {cell: until for cell, until in self._busy.items() if until > now}

    def forget(self, cell: str) -> None:
        """Forget a cell that is gone."""
        self._weights.pop(cell, None)
        self._left.discard(cell)
        self._busy.pop(cell, None)
