"""The life of a lane: free, leased to a cell, draining, cooling, free again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum


class Phase(StrEnum):
    """Where a lane is in its life."""

    LEASED = "leased"
    DRAINING = "draining"
    """Its cell left the table; the last requests are given time."""
    COOLING = "cooling"
    """No request is left; servers go, and late counts are still its cell's."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A lane in use. `since` is when the phase was entered; `patience` the longest request."""

    lane: str
    cell: str
    phase: Phase
    since: datetime
    patience: timedelta
    is_cut: bool = False
    """Its last requests had their time and are cut."""


class LanePool:
    """All lanes of one configuration, and who holds which. Pure bookkeeping: nothing here talks to HAProxy."""

    def __init__(self, size: int, leases: Iterable[Lease] = ()) -> None:
        """Start with `size` lanes, some already leased."""
        self.size = size
        self._leases: dict[str, Lease] = {lease.lane: lease for lease in leases}

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Return the lanes in use, by name."""
        return tuple(sorted(self._leases.values(), key=lambda lease: lane_number(lease.lane)))

    @property
    def least_size(self) -> int:
        """Return how many lanes there must be for those in use to exist."""
        return max((lane_number(name) + 1 for name in self._leases), default=1)

    def lane_of(self, cell: str) -> Lease | None:
        """Return the lane that answers or lately answered for a cell; never a cooling one."""
        held = (lease for lease in self._leases.values() if lease.cell == cell and lease.phase is not Phase.COOLING)
        return next(held, None)

    def get(self, lane: str) -> Lease | None:
        """Return the lease of a lane, or None when it is free."""
        return self._leases.get(lane)

    def shortage(self, cells: Iterable[str]) -> int:
        """Return how many lanes are missing for `cells` to have one each."""
        wanted = sum(1 for cell in cells if self.lane_of(cell) is None)
        return max(0, wanted - (self.size - len(self._leases)))

    def lease(self, cells: Mapping[str, timedelta], now: datetime) -> tuple[Lease, ...]:
        """Give each cell (with its longest request) a lane and return the new leases.

        A draining lane goes back to its own cell: nothing of it was taken apart yet.
        """
        fresh: list[Lease] = []
        free = iter(name for name in map(lane_name, range(self.size)) if name not in self._leases)
        for cell, patience in cells.items():
            held = self.lane_of(cell)
            lane = held.lane if held else next(free)
            since = held.since if held and held.phase is Phase.LEASED else now
            lease = Lease(lane=lane, cell=cell, phase=Phase.LEASED, since=since, patience=patience)
            self._leases[lane] = lease
            if held is None:
                fresh.append(lease)
        return tuple(fresh)

    def release(self, keep: Iterable[str], now: datetime) -> tuple[Lease, ...]:
        """Let the lanes of all cells but `keep` drain; return those that begin to."""
        kept = frozenset(keep)
        leaving = [lease for lease in self.leases if lease.phase is Phase.LEASED and lease.cell not in kept]
        for lease in leaving:
            self._enter(lease, Phase.DRAINING, now)
        return tuple(leaving)

    def cool(self, lane: str, now: datetime, *, is_cut: bool = False) -> None:
        """Take a drained lane apart from now on; `is_cut`: also what is still in flight."""
        self._enter(replace(self._leases[lane], is_cut=is_cut), Phase.COOLING, now)

    def free(self, lane: str) -> None:
        """Give a cooled lane back to the pool."""
        del self._leases[lane]

    def _enter(self, lease: Lease, phase: Phase, now: datetime) -> None:
        self._leases[lease.lane] = replace(lease, phase=phase, since=now)


def lane_name(number: int) -> str:
    """Return the name of a lane's backend."""
    return f"lane{number}"


def lane_number(name: str) -> int:
    """Return a lane's number, for sorting."""
    return int(name.removeprefix("lane"))
