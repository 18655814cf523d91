"""The gateway: the `Gateway` port on a HAProxy that this process supervises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import structlog

from reconciler.errors import Retry, Stalled
from reconciler.gateway.admin import AdminError, parse_map
from reconciler.gateway.book import Book, prefix
from reconciler.gateway.config import HEADERS_MAP, LANES_MAP, ROUTES_MAP
from reconciler.gateway.extras import MATCHED, header_rules
from reconciler.gateway.fleet import Fleet
from reconciler.gateway.folder import Folder
from reconciler.gateway.lanes import Lease
from reconciler.gateway.process import HAProxyProcess
from reconciler.gateway.recollect import recollect
from reconciler.gateway.rows import Row, check_routes, parse_row
from reconciler.gateway.settings import GatewaySettings
from reconciler.gateway.signals import Answer, LogReader
from reconciler.gateway.state import Saved, load, save
from reconciler.gateway.traffic import CellHistogram
from reconciler.gateway.upkeep import Upkeep, next_rest
from reconciler.ports import Clock
from reconciler.waking import sleep_until_woken
from specs.observed import Endpoint, GatewaySeen
from specs.routes import RouteTable

MAX_LANES = 4096
"""Beyond this one HAProxy is not the answer any more."""

SAVE_EVERY = timedelta(seconds=10)
"""How much of the latencies is lost when the daemon is killed; an analysis under way begins anew without them."""

RESTART_REST = timedelta(seconds=1)
"""Between attempts to start a HAProxy that does not come up."""

_log = structlog.get_logger("heliostat.gateway")


class HAProxyGateway:
    """One HAProxy behind the `Gateway` port.

    `run()` (or `running()` as a context manager) starts or adopts HAProxy and keeps it right until it is
    cancelled. Cancellation detaches: HAProxy goes on serving, and the next gateway on the same folder
    adopts it. `stop()` ends HAProxy itself.
    """

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        """Make the folder and read what a former gateway left there; nothing runs yet. Raises Stalled."""
        self._settings = settings
        self._clock = clock
        self._folder = Folder(settings.folder)
        self._fleet = Fleet(settings, self._folder)
        self._open(load(self._folder))
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._watches: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._is_saved = True
        self._saved_at, self._saved_timed = clock.now(), 0
        self._untold: tuple[Lease, ...] = ()
        self._is_kept = True
        """Whether the table was saved: one that was not is for nobody but its next `route` to tell."""

    def _open(self, saved: Saved) -> None:
        self._former = saved.running
        self._book = Book(self._settings.lanes, saved, self._settings.zone)
        self._upkeep = Upkeep(self._settings, self._fleet, self._book, self._clock)
        self._told: Mapping[str, Row] = {}

    # -- life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled; then HAProxy goes on alone. Raises Stalled when the port is not to be had."""
        async with self.running():
            await asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HAProxyGateway]:
        """Serve while the block runs; it is entered when HAProxy answers."""
        reader = LogReader(self._folder, self._count)
        failure: Exception | None = None
        try:
            await self._begin()
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._watch_all()
                tasks = [group.create_task(self._keep_up()), group.create_task(reader.run())]
                self._ready.set()
                try:
                    yield self
                except Exception as error:  # the caller's own, which must not come out as a group
                    failure = error
                finally:
                    self._ready.clear()
                    self._group = None
                    for task in [*tasks, *self._watches]:
                        task.cancel()
        finally:
            reader.close()
            self._fleet.close()
        if failure is not None:
            raise failure

    async def stop(self, grace: timedelta = timedelta(seconds=5)) -> None:
        """End HAProxy for good; requests in flight have `grace` to finish. For demos and tests.

        A gateway that never ran ends the HAProxy that a former one left on its folder.
        """
        self._is_stopping = True
        if self._fleet.current is None:
            await self._fleet.find(self._former or await self._fleet.discover())
        await self._fleet.stop(grace)
        self._note()

    async def _begin(self) -> None:
        """Adopt the HAProxy that is there, replace it, or start one; no live route is ever without its row."""
        fits = await self._fleet.find(self._former)
        if self._fleet.current is None:
            # No state, or one from before the disk was full: HAProxy itself knows best.
            fits = await self._fleet.find(await self._fleet.discover())
            if self._fleet.current is not None:
                self._open(await recollect(self._fleet, self._clock.now()))
        self._book.pool.size = max(self._fleet.lanes, self._book.pool.least_size)
        if fits:
            await self._upkeep.read()
            # Between the save and the command a daemon may die: then a lane still lacks its prefix.
            await self._fleet.tell(lease_commands(self._book.pool.leases))
            _log.info("adopted the running HAProxy", pid=self._fleet.serving().pid)
        else:
            await self._start_anew()
        self._note()

    async def _start_anew(self) -> None:
        replaced = self._fleet.current is not None
        if replaced:
            await self._upkeep.read()
        ready = await self._upkeep.ready_endpoints()
        content = replace(self._book.content(), servers=self._book.assume_up(ready))
        await self._fleet.start(content, self._book.pool.size)
        self._book.reloads += replaced
        _log.info("started HAProxy", pid=self._fleet.serving().pid, replaced=replaced)

    def _watch_all(self) -> None:
        watched = {task.get_name() for task in self._watches}
        for process in self._fleet.processes:
            name = f"haproxy {process.pid}"
            if name not in watched and self._group is not None:
                task = self._group.create_task(self._watch(process), name=name)
                self._watches.add(task)
                task.add_done_callback(self._watches.discard)

    async def _watch(self, process: HAProxyProcess) -> None:
        """Start HAProxy again when the current one dies: the listening socket is ours, so clients only wait."""
        begun = self._clock.now()
        await process.ended()
        if self._clock.now() - begun < RESTART_REST and process is self._fleet.current:
            await self._clock.sleep(RESTART_REST)  # One that dies at once must not be started in a tight loop.
        while process is self._fleet.current and not self._is_stopping:
            _log.warning("HAProxy died; it is started again", pid=process.pid)
            try:
                async with self._lock:
                    await self._fleet.start(self._book.content(), self._book.pool.size)
                    self._note()
            except Stalled as error:
                _log.error("HAProxy cannot be started", why=error.reason)
                await self._clock.sleep(RESTART_REST)
        self._fleet.tidy()
        self._watch_all()
        self._wake.set()

    async def _keep_up(self) -> None:
        rest = self._settings.haste
        while True:
            pending = await self._pass()
            rest = next_rest(rest, self._settings, pending=pending)
            if await self._rested(rest):
                rest = self._settings.haste

    async def _rested(self, rest: timedelta) -> bool:
        """Wait for `rest`, or until something is new; return whether something is."""
        await sleep_until_woken(self._clock, rest, self._wake)
        is_new = self._wake.is_set()
        self._wake.clear()
        return is_new

    async def _pass(self) -> bool:
        try:
            await self._upkeep.read()
            verdicts = await self._upkeep.probe()
            async with self._lock:
                leases = self._book.pool.leases
                pending = await self._upkeep.advance(verdicts, self._clock.now())
                if self._settings.zone is not None and self._is_kept and self._told != self._book.rows():
                    await self._tell()  # What replicas take at once is another.
                if leases != self._book.pool.leases or not self._is_saved or self._has_news():
                    self._note()
        except AdminError as error:
            _log.warning("HAProxy is not to be asked", why=str(error))
            return True
        self._fleet.tidy()
        return pending

    def _count(self, answer: Answer) -> None:
        self._book.add_latency(answer, self._clock.now())

    def _has_news(self) -> bool:
        """Return whether answers were timed since the last save, and that is a while ago."""
        return self._book.timed != self._saved_timed and self._clock.now() - self._saved_at >= SAVE_EVERY

    def _save(self) -> None:
        self._saved_at, self._saved_timed = self._clock.now(), self._book.timed
        save(self._folder, self._book.saved(self._fleet.running()))
        self._is_saved = True

    def _note(self) -> None:
        """Save what the next daemon could find out by itself: without room on the disk it is saved later."""
        try:
            self._save()
        except Stalled as error:
            if self._is_saved:
                _log.warning("the gateway's state is not saved", why=error.reason)
            self._is_saved = False

    # -- the port ---------------------------------------------------------------------------------

    async def observe(self) -> GatewaySeen:
        """Return weights as HAProxy has them now, servers that pass its checks, requests in flight, counters."""
        self._check_ready()
        try:
            (routes,) = await self._fleet.ask([f"show map {ROUTES_MAP}"])
            await self._upkeep.read()
        except AdminError as error:
            raise Retry(f"the gateway cannot be asked: {error}") from error
        rows = tuple(parse_row(value) for value in parse_map(routes).values())
        return self._book.seen(rows, self._clock.now(), is_direct=self._settings.is_direct)

    async def route(self, table: RouteTable) -> None:
        """Make the table true. Raises Stalled for a table that cannot be served, Retry while HAProxy is away."""
        check_routes(table.services)
        self._check_ready()
        async with self._lock:
            try:
                await self._route(table)
            except AdminError as error:
                raise Retry(f"the gateway cannot be changed: {error}") from error
        self._wake.set()

    async def _route(self, table: RouteTable) -> None:
        now = self._clock.now()
        await self._grow(self._book.pool.shortage(cell.cell for service in table.services for cell in service.cells))
        self._is_kept = False
        self._untold = (*self._untold, *self._book.lease(table, now))
        self._save()  # Before HAProxy knows: a lane that it serves must never be taken for a free one.
        self._is_kept = True
        await self._tell()
        if self._book.release(now):
            self._note()

    async def _tell(self) -> None:
        """Bring HAProxy's maps to the book's table. Raises AdminError."""
        await self._fleet.tell(lease_commands(self._untold))
        self._untold = ()
        rows = self._book.rows()
        current, headers = await self._fleet.ask([f"show map {ROUTES_MAP}", f"show map {HEADERS_MAP}"])
        new, old = header_commands(frozenset(parse_map(headers)), header_rules(self._book.table))
        # A header's rule is there before a row names it, and goes when none does.
        await self._fleet.tell([*new, *row_commands(parse_map(current), rows), *old])
        self._told = rows

    async def _grow(self, shortage: int) -> None:
        """Start a HAProxy with twice the lanes when there are too few: the only change that needs a new process."""
        size = wanted = self._book.pool.size
        while size < wanted + shortage:
            size *= 2
        if size == wanted:
            return
        if size > MAX_LANES:
            raise Stalled(f"the gateway holds at most {MAX_LANES} cells at once; remove services or split the cluster")
        await self._upkeep.read()
        await self._fleet.start(self._book.content(), size)
        self._book.pool.size = size
        self._book.reloads += 1
        self._note()
        self._watch_all()

    async def refresh(self, endpoints: Mapping[str, tuple[Endpoint, ...]], *, complete: bool) -> None:
        """Take the endpoints per cell; servers follow by themselves. Cells without a lane are remembered only."""
        now = self._clock.now()
        if self._book.tell(endpoints, complete=complete, now=now, unseen=self._settings.unseen):
            self._note()
            self._wake.set()

    def _check_ready(self) -> None:
        if not self._ready.is_set():
            raise Retry("the gateway is starting")

    @property
    def pid(self) -> int:
        """HAProxy's process id, for people and tests. Raises Retry before there is one."""
        if self._fleet.current is None:
            raise Retry("the gateway is starting")
        return self._fleet.current.pid

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Return the lanes in use: leased, draining and cooling."""
        return self._book.pool.leases

    async def servers(self, cell: str) -> Mapping[str, str]:
        """Return HAProxy's status per replica of a cell, such as `UP`, `DOWN` or `DRAIN`. Raises Retry."""
        await self.observe()
        return self._book.statuses(cell)

    # -- metrics ----------------------------------------------------------------------------------

    def histograms(self) -> tuple[CellHistogram, ...]:
        """Return seconds to response headers per cell, for `heliostat_gateway_request_duration_seconds`."""
        return self._book.histograms()

    def crossings(self) -> Mapping[str, Mapping[str, int]]:
        """Return requests per cell by where they were answered: `near`, `far` or `unknown`; none without a zone."""
        return self._book.crossings.totals() if self._settings.zone else {}

    def cross_zone(self) -> Mapping[str, float]:
        """Return which part of each service's requests of the last minute left the gateway's zone."""
        return self._book.cross_zone()

    def codes(self) -> Mapping[str, Mapping[str, int]]:
        """Return ended requests per cell and code class, for `heliostat_gateway_requests_total`.

        Beside `1xx` to `5xx`: `none` got no answer (the client left, or the replica broke off), and `unrouted` are
        the gateway's own 503s, told for the cell with the most weight of the service.
        """
        return self._book.codes()


def lease_commands(leases: tuple[Lease, ...]) -> list[str]:
    """Return the commands that give lanes their private prefixes: before any row names them."""
    return [f"set map {LANES_MAP} {lease.lane} {prefix(lease.cell)}" for lease in leases]


def header_commands(current: frozenset[str], wanted: frozenset[str]) -> tuple[list[str], list[str]]:
    """Return the commands that add the missing rules of header routes, and those that take old ones away."""
    new = [f"add map {HEADERS_MAP} {rule} {MATCHED}" for rule in sorted(wanted - current)]
    return new, [f"del map {HEADERS_MAP} {rule}" for rule in sorted(current - wanted)]


def row_commands(current: Mapping[str, str], wanted: Mapping[str, Row]) -> list[str]:
    """Return the commands from the rows that HAProxy has to those wanted; one atomic change per row.

    `add map` on a key that exists would make a second, dead entry, so HAProxy's own keys decide.
    """
    commands: list[str] = []
    for key, row in sorted(wanted.items()):
        if key not in current:
            commands.append(f"add map {ROUTES_MAP} {key} {row}")
        elif current[key] != str(row):
            commands.append(f"set map {ROUTES_MAP} {key} {row}")
    return commands + [f"del map {ROUTES_MAP} {key}" for key in sorted(current) if key not in wanted]
