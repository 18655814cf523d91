"""The gateway in memory and in virtual time: the real one's bookkeeping, without a HAProxy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.errors import PortError
from reconciler.gateway.book import Book
from reconciler.gateway.lanes import Phase
from reconciler.gateway.rows import check_routes
from reconciler.gateway.servers import server_name
from reconciler.gateway.settings import GatewaySettings
from reconciler.gateway.state import Saved
from reconciler.ports import Clock
from specs.observed import Endpoint, GatewaySeen, TrafficSeen
from specs.routes import RouteTable

LANES = 4096


def always(cell: str, endpoint: Endpoint) -> bool:
    """Every replica passes its checks."""
    return True


class FakeGateway:
    """Implements `reconciler.ports.Gateway`.

    A server passes its first check `delay` after it was told, for as long as `healthy` says so. Set
    `in_flight` and `traffic` per cell to play requests, and `problem` to make every call fail.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        delay: timedelta = timedelta(seconds=1),
        healthy: Callable[[str, Endpoint], bool] = always,
        is_direct: bool = True,
        unseen: timedelta = GatewaySettings.unseen,
    ) -> None:
        self.in_flight: dict[str, int] = {}
        self.traffic: dict[str, TrafficSeen] = {}
        self.problem: PortError | None = None
        self.tables: list[tuple[datetime, RouteTable]] = []
        """Every table that was routed, with its time."""
        self._clock = clock
        self._delay = delay
        self._healthy = healthy
        self._is_direct = is_direct
        self._unseen = unseen
        self._book = Book(LANES, Saved())
        self._told_at: dict[tuple[str, str], datetime] = {}

    @property
    def table(self) -> RouteTable:
        """The table as routed now."""
        return self._book.table

    def forget(self) -> None:
        """Lose everything, as a gateway does whose host was lost."""
        self._book = Book(LANES, Saved())
        self._told_at = {}
        self.traffic = {}

    async def observe(self) -> GatewaySeen:
        self._check()
        now = self._clock.now()
        self._advance(now)
        seen = self._book.seen(self._book.rows().values(), now, is_direct=self._is_direct)
        lanes = tuple(
            replace(lane, up=self.up(lane.cell), in_flight=self.in_flight.get(lane.cell, 0)) for lane in seen.lanes
        )
        traffic = tuple(self.traffic.get(counted.cell, counted) for counted in seen.traffic)
        return replace(seen, lanes=lanes, traffic=traffic)

    async def route(self, table: RouteTable) -> None:
        check_routes(table.services)
        self._check()
        now = self._clock.now()
        self._advance(now)
        for lease in self._book.lease(table, now):
            self._note(lease.cell, now)
        self._book.rows()
        self._book.release(now)
        self.tables.append((now, table))

    async def refresh(self, endpoints: Mapping[str, tuple[Endpoint, ...]], *, complete: bool) -> None:
        self._check()
        now = self._clock.now()
        self._book.tell(endpoints, complete=complete, now=now, unseen=self._unseen)
        for lease in self._book.pool.leases:
            self._note(lease.cell, now)

    def _check(self) -> None:
        if self.problem is not None:
            raise self.problem

    def _note(self, cell: str, now: datetime) -> None:
        for entry in self._book.known.get(cell, ()):
            self._told_at.setdefault((cell, server_name(entry.endpoint)), now)

    def has_lane(self, cell: str) -> bool:
        """Return whether a cell may get requests: its lane does not cool."""
        return any(lease.cell == cell and lease.phase is not Phase.COOLING for lease in self._book.pool.leases)

    def up(self, cell: str) -> frozenset[str]:
        """Return the replicas of a cell that pass their checks now."""
        now = self._clock.now()
        return frozenset(
            entry.endpoint.replica
            for entry in self._book.known.get(cell, ())
            if not entry.endpoint.is_leaving
            # Serve's proxies answer for whatever is behind them.
            and (not self._is_direct or self._healthy(cell, entry.endpoint))
            and now - self._told_at[cell, server_name(entry.endpoint)] >= self._delay
        )

    def _advance(self, now: datetime) -> None:
        for lease in self._book.pool.leases:
            if lease.phase is Phase.DRAINING:
                is_idle = self.in_flight.get(lease.cell, 0) == 0 and now > lease.since
                if is_idle or now - lease.since >= lease.patience:
                    self._book.pool.cool(lease.lane, now)
            elif lease.phase is Phase.COOLING and now - lease.since >= GatewaySettings.cooling:
                self._book.free(lease)
                kept = self._book.cells()
                self._told_at = {key: at for key, at in self._told_at.items() if key[0] in kept}
