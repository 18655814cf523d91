"""The front desk: answers the HTTP side from the loop's last turn, and hands commands in."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import TypeAdapter

from reconciler.api.backend import Refused, UnknownServiceError
from reconciler.errors import PortError
from reconciler.loop import CommandRefused, Reconciler, Tick, UnknownService
from reconciler.planner import Planner, Proposal
from reconciler.ports import Store
from specs.commands import Command
from specs.memory import Event, HistoryEntry
from specs.observed import Node
from specs.planned import PlannedChange
from specs.routes import RouteTable
from specs.seats import Seat, seats_of
from specs.status import ClusterStatus

_TABLES = TypeAdapter(RouteTable)


class Desk:
    """Implements `reconciler.api.backend.Backend`. Told of each turn by the daemon."""

    def __init__(self, store: Store, cluster: str, metrics: Callable[[], bytes]) -> None:
        """`metrics` renders all metrics in Prometheus' text format."""
        self._store = store
        self._cluster = cluster
        self._metrics = metrics
        self._reconciler: Reconciler | None = None
        self._planner: Planner | None = None
        self._tag, self._table = "", RouteTable()
        self._ready = False
        self._news: set[asyncio.Event] = set()

    def serve(self, reconciler: Reconciler) -> None:
        """Answer for this loop from now on."""
        self._reconciler = reconciler
        self._note(reconciler.table)

    def ticked(self, tick: Tick) -> None:
        """Take in a turn, and wake those who wait for news."""
        if self._planner is not None:
            self._planner.world = tick.world
        self._ready = self._ready or (tick.world.desired is not None and tick.world.observed.complete)
        if self._reconciler is not None:
            self._note(self._reconciler.table)
        for event in self._news:
            event.set()

    def _note(self, table: RouteTable) -> None:
        if self._tag and table == self._table:
            return
        self._table = table
        self._tag = hashlib.sha256(_TABLES.dump_json(table)).hexdigest()[:16]

    def status(self) -> ClusterStatus:
        """Return the report of the last turn; before the first one, that nothing was seen yet."""
        return (self._reconciler.status if self._reconciler else None) or self._starting()

    def status_in_full(self, service: str | None = None) -> ClusterStatus:
        """Return the same with the bounds of each effect, of one service or of all."""
        return (self._reconciler.status_in_full(service) if self._reconciler else None) or self._starting()

    def _starting(self) -> ClusterStatus:
        return ClusterStatus(
            cluster=self._cluster,
            commit=None,
            observed_at=None,
            complete=False,
            leader=True,
            problem="starting: nothing was read yet",
            services=(),
        )

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes as last seen."""
        return self._reconciler.nodes if self._reconciler else ()

    def seats(self) -> tuple[Seat, ...]:
        """Return which replica was last seen where."""
        return seats_of(self._reconciler.cells) if self._reconciler else ()

    def routes(self) -> tuple[str, RouteTable]:
        """Return the route table as last commanded and a tag that changes whenever it does."""
        return self._tag, self._table

    async def wait_routes(self, etag: str, timeout: timedelta) -> None:
        """Return when the table's tag is not `etag` any more, or after `timeout`."""
        async with self._wakeups() as woken:
            try:
                async with asyncio.timeout(timeout.total_seconds()):
                    while self._tag == etag:
                        await woken.wait()
                        woken.clear()
            except TimeoutError:
                return

    async def events(self, *, service: str | None = None, since: int = 0, limit: int = 200) -> tuple[Event, ...]:
        """Return events with an id above `since`, oldest first; with `since=0` the newest `limit`."""
        return await self._store.events(service=service, since=since, limit=limit)

    async def wait_events(self, since: int, timeout: timedelta) -> None:
        """Return when an event with an id above `since` exists, or after `timeout`."""
        async with self._wakeups() as woken:
            try:
                async with asyncio.timeout(timeout.total_seconds()):
                    while not await self._has_news(since):
                        await woken.wait()
                        woken.clear()
            except TimeoutError:
                return

    async def _has_news(self, since: int) -> bool:
        newest = await self._store.events(limit=1)
        return bool(newest) and newest[-1].id > since

    @asynccontextmanager
    async def _wakeups(self) -> AsyncIterator[asyncio.Event]:
        event = asyncio.Event()
        self._news.add(event)
        try:
            yield event
        finally:
            self._news.discard(event)

    async def history(self, service: str) -> tuple[HistoryEntry, ...]:
        """Return a service's ended rollouts, newest first."""
        return await self._store.history(service)

    async def command(self, command: Command) -> int:
        """Accept a command and return the id of its event."""
        if self._reconciler is None:
            raise Refused("the daemon is starting; try again in a moment")
        try:
            return await self._reconciler.command(command)
        except CommandRefused as refusal:
            raise Refused(str(refusal)) from refusal
        except UnknownService as unknown:
            raise UnknownServiceError(str(unknown)) from unknown

    async def plan(self, proposal: Proposal | None) -> PlannedChange:
        """Return what a proposal would do, or what is about to be done anyway."""
        try:
            found = await self._planner.plan(proposal) if self._planner is not None else None
        except PortError as error:
            raise Refused(error.reason) from error
        if found is None:
            raise Refused("nothing was seen of the cluster or of Git yet; try again in a moment")
        return found

    async def apply(self, base: str, commit: str, live: str) -> None:
        """Follow the commit of a plan that still holds."""
        if self._planner is None or self._reconciler is None:
            raise Refused("the daemon is starting; try again in a moment")
        try:
            await self._planner.apply(base, commit, live)
        except PortError as error:
            raise Refused(error.reason) from error
        self._reconciler.wake()

    async def release(self) -> str:
        """Follow the branch again."""
        if self._planner is None or self._reconciler is None:
            raise Refused("the daemon is starting; try again in a moment")
        try:
            pinned = await self._planner.commits.release()
        except PortError as error:
            raise Refused(error.reason) from error
        if pinned is None:
            raise Refused("no plan was applied: the branch is followed already")
        self._reconciler.wake()
        return pinned

    def plans(self, planner: Planner) -> None:
        """Answer plans with this planner from now on."""
        self._planner = planner

    def is_ready(self) -> bool:
        """Return whether a first commit was read and a first complete observation made."""
        return self._ready

    def metrics(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return self._metrics()
