"""What the gateway does by itself: counters are read, servers come and go, lanes drain, cool and are freed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from reconciler.gateway.admin import ServerStat, parse_stat, parse_table
from reconciler.gateway.book import Book, prefix
from reconciler.gateway.clients import TABLE, parse_clients
from reconciler.gateway.config import LANES_MAP, NO_PREFIX, SERVER_OPTIONS
from reconciler.gateway.fleet import Fleet
from reconciler.gateway.lanes import Lease, Phase
from reconciler.gateway.probe import probe
from reconciler.gateway.servers import (
    Verdict,
    add_commands,
    read_server,
    removal_commands,
    server_address,
    server_name,
    to_probe,
)
from reconciler.gateway.settings import GatewaySettings
from reconciler.ports import Clock
from specs.observed import Endpoint

MAX_PROBES = 32
"""Probes at once: a restart with hundreds of endpoints must not burst."""

_log = structlog.get_logger("heliostat.gateway")

Verdicts = Mapping[tuple[str, str], Verdict]
"""By lane and server name."""


class Upkeep:
    """One pass at a time over everything that is not yet as it should be."""

    def __init__(self, settings: GatewaySettings, fleet: Fleet, book: Book, clock: Clock) -> None:
        """Work on `book` through `fleet`."""
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._book = book
        self._reading = asyncio.Lock()
        self._idle: set[str] = set()

    async def read(self) -> None:
        """Read lanes and counters. Raises AdminError when HAProxy is silent.

        What a replaced process still finishes is not seen: its admin socket closes when it stops listening.
        """
        async with self._reading:
            process, book = self._fleet.serving(), self._book
            leases = book.pool.leases
            lanes = [f"show stat {lease.lane} 6 -1" for lease in leases]
            commands = [*lanes, "show table unrouted", f"show table {TABLE}"]
            *texts, table, clients = await self._fleet.admin(process).ask(commands)
            book.stats = {lease.lane: parse_stat(text) for lease, text in zip(leases, texts, strict=True)}
            groups = parse_clients(clients)
            for lease in leases:
                counts = book.stats[lease.lane].counts
                book.ledger.credit(lease.cell, process.generation, lease.lane, counts)
                book.clients.credit(lease.cell, process.generation, lease.lane, groups.get(lease.lane, {}))
            book.credit_unrouted(process.generation, parse_table(table))
            book.credit_crossings(process.generation, self._clock.now())
            book.ledger.keep(book.cells(), {process.generation})
            book.clients.keep(book.cells(), {process.generation})
            # Drained when nothing was in flight *after* the row had left the lane out.
            self._idle = {
                lease.lane
                for lease in leases
                if lease.phase is Phase.DRAINING and book.stats[lease.lane].in_flight == 0
            }

    async def probe(self) -> Verdicts:
        """Probe endpoints that should become servers, and servers that Serve does not list any more."""
        wanted = [
            (lease, endpoint)
            for lease in self._book.pool.leases
            if lease.phase is not Phase.COOLING
            for endpoint in to_probe(self._book.known.get(lease.cell, ()), self._present(lease.lane))
        ]
        return await self._probe_all(wanted)

    async def _probe_all(self, wanted: list[tuple[Lease, Endpoint]]) -> Verdicts:
        gate = asyncio.Semaphore(MAX_PROBES)
        seconds = self._settings.probe_timeout.total_seconds()

        async def one(lease: Lease, endpoint: Endpoint) -> Verdict:
            async with gate:
                return await probe(endpoint, prefix(lease.cell), seconds)

        verdicts = await asyncio.gather(*(one(lease, endpoint) for lease, endpoint in wanted))
        names = [(lease.lane, server_name(endpoint)) for lease, endpoint in wanted]
        return dict(zip(names, verdicts, strict=True))

    async def ready_endpoints(self) -> dict[str, list[Endpoint]]:
        """Return the known endpoints per lane that a probe finds ready: what a cold start may trust."""
        wanted = [
            (lease, entry.endpoint)
            for lease in self._book.pool.leases
            if lease.phase is not Phase.COOLING
            for entry in self._book.known.get(lease.cell, ())
        ]
        verdicts = await self._probe_all(wanted)
        ready: dict[str, list[Endpoint]] = {}
        for lease, endpoint in wanted:
            if verdicts[lease.lane, server_name(endpoint)].is_ready:
                ready.setdefault(lease.lane, []).append(endpoint)
        return ready

    def _present(self, lane: str) -> dict[str, ServerStat]:
        stat = self._book.stats.get(lane)
        return {server.name: server for server in stat.servers} if stat else {}

    async def advance(self, verdicts: Verdicts, now: datetime) -> bool:
        """Do what can be done now; return whether something is still on its way. Raises AdminError."""
        pending = False
        for lease in self._book.pool.leases:
            match lease.phase:
                case Phase.LEASED:
                    pending |= await self._serve(lease, verdicts)
                case Phase.DRAINING:
                    pending |= await self._serve(lease, verdicts)
                    if lease.lane in self._idle:
                        self._book.pool.cool(lease.lane, now)
                    elif now - lease.since >= lease.patience:
                        self._book.pool.cool(lease.lane, now, is_cut=True)
                    pending = True
                case Phase.COOLING:
                    await self._cool(lease, now)
                    pending = True
        return pending

    async def _serve(self, lease: Lease, verdicts: Verdicts) -> bool:
        """Bring the servers of a lane to what is known of its endpoints; return whether some are awaited."""
        present = self._present(lease.lane)
        known = {server_name(entry.endpoint): entry for entry in self._book.known.get(lease.cell, ())}
        pending = False
        for name, entry in known.items():
            verdict = verdicts.get((lease.lane, name))
            if name not in present:
                pending |= not entry.endpoint.is_leaving
                if verdict is not None and verdict.is_ready and not entry.endpoint.is_leaving:
                    await self._add(lease, entry.endpoint)
            elif present[name].address != server_address(entry.endpoint):
                pending = True
                await self._remove(lease, present[name], is_overdue=False)
            else:
                is_gone = entry.missing_since is not None and verdict is not None and not verdict.is_ready
                is_left = is_gone or entry.endpoint.is_leaving
                await self._set_state(lease, present[name], is_left=is_left)
                pending |= not present[name].is_up and not is_left
        for name, stat in present.items():
            if name not in known:
                pending = True
                await self._remove(lease, stat, is_overdue=False)
        return pending

    async def _add(self, lease: Lease, endpoint: Endpoint) -> None:
        commands = add_commands(lease.lane, endpoint, SERVER_OPTIONS)
        answers = await self._fleet.ask(commands)
        refused = [answer.strip() for answer in answers if answer.strip() not in {"", "New server registered."}]
        if refused:
            _log.warning("server refused", cell=lease.cell, replica=endpoint.replica, why=refused[0])
        else:
            _log.info("server added", cell=lease.cell, replica=endpoint.replica, at=server_address(endpoint))

    async def _set_state(self, lease: Lease, stat: ServerStat, *, is_left: bool) -> None:
        is_draining = stat.status.startswith(("DRAIN", "MAINT"))
        if is_left and not is_draining:
            await self._fleet.ask([f"set server {lease.lane}/{stat.name} state drain"])
        if not is_left and is_draining:
            await self._fleet.ask([f"set server {lease.lane}/{stat.name} state ready"])

    async def _remove(self, lease: Lease, stat: ServerStat, *, is_overdue: bool) -> None:
        answers = await self._fleet.ask(removal_commands(lease.lane, stat, is_overdue=is_overdue))
        if answers and answers[-1].strip() == "Server deleted.":
            replica = read_server(stat.name, stat.address).replica
            _log.info("server removed", cell=lease.cell, replica=replica)

    async def _cool(self, lease: Lease, now: datetime) -> None:
        """Take a lane's servers away; when none is left and its last counts are read, it is free."""
        present = self._present(lease.lane)
        for stat in present.values():
            await self._remove(lease, stat, is_overdue=lease.is_cut)
        if not present and now - lease.since >= self._settings.cooling:
            await self._fleet.tell([f"set map {LANES_MAP} {lease.lane} {NO_PREFIX}"])
            self._book.free(lease)


def next_rest(rest: timedelta, settings: GatewaySettings, *, pending: bool) -> timedelta:
    """Return how long to wait before the next pass: briefly while things move, longer the longer they take."""
    return min(rest * 1.5, settings.tick) if pending else settings.tick
