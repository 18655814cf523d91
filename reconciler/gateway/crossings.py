"""How many requests left the gateway's own zone, counted where they went: by server."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

WINDOW = timedelta(minutes=1)
"""How much of the past the share is about."""

STEP = WINDOW / 12
"""How often a reading is kept for that: they come several times a second, for hundreds of cells."""


class Side(StrEnum):
    """Where a request was answered, seen from the gateway."""

    NEAR = "near"
    FAR = "far"
    UNKNOWN = "unknown"
    """The server's node has no zone, or is not known yet."""


def side_of(zone: str, own: str) -> Side:
    """Return where a server in `zone` ("" for none) is for a gateway in `own`."""
    if not zone:
        return Side.UNKNOWN
    return Side.NEAR if zone == own else Side.FAR


@dataclass(frozen=True, kw_only=True)
class CrossingState:
    """What outlives the daemon: totals per cell, and the last readings by `GENERATION:LANE/SERVER`."""

    totals: Mapping[str, Mapping[Side, int]] = field(default_factory=dict)
    read: Mapping[str, int] = field(default_factory=dict)


class Crossings:
    """Requests per cell and side, summed over HAProxy processes and lane leases as in `Ledger`."""

    def __init__(self, state: CrossingState | None = None) -> None:
        """Start where a former daemon left off."""
        state = state or CrossingState()
        self._totals = {cell: Counter(dict(sides)) for cell, sides in state.totals.items()}
        self._read = dict(state.read)
        self._past: deque[tuple[datetime, Mapping[str, Counter[Side]]]] = deque()

    def credit(self, cell: str, server: str, requests: int, side: Side) -> None:
        """Take a reading of a server's counter; `server` is `GENERATION:LANE/SERVER`."""
        self._totals.setdefault(cell, Counter())[side] += requests - self._read.get(server, 0)
        self._read[server] = requests

    def keep(self, cells: Iterable[str], servers: Iterable[str], now: datetime) -> None:
        """Forget cells that hold no lane any more, and servers that are gone; note the time of this reading."""
        kept, present = frozenset(cells), frozenset(servers)
        self._totals = {cell: sides for cell, sides in self._totals.items() if cell in kept}
        self._read = {server: count for server, count in self._read.items() if server in present}
        if not self._past or now - self._past[-1][0] >= STEP:
            self._past.append((now, {cell: sides.copy() for cell, sides in self._totals.items()}))
        while len(self._past) > 1 and now - self._past[1][0] >= WINDOW:
            self._past.popleft()

    def totals(self) -> Mapping[str, Mapping[str, int]]:
        """Return requests by cell and side."""
        return {cell: {side.value: sides[side] for side in Side} for cell, sides in sorted(self._totals.items())}

    def share(self, cells: Iterable[str]) -> float | None:
        """Return which part of these cells' requests left the zone lately; None without requests."""
        before = self._past[0][1] if self._past else {}
        lately: Counter[Side] = Counter()
        for cell in cells:
            lately.update(self._totals.get(cell, Counter()) - before.get(cell, Counter()))
        known = lately[Side.NEAR] + lately[Side.FAR]
        return lately[Side.FAR] / known if known else None

    def state(self) -> CrossingState:
        """Return what is to be saved."""
        return CrossingState(totals={cell: dict(sides) for cell, sides in self._totals.items()}, read=dict(self._read))
