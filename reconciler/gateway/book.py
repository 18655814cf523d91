"""What the gateway knows, apart from how HAProxy is told: table, leases, endpoints, counters."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from reconciler.gateway.admin import LaneStat
from reconciler.gateway.clients import ClientLedger
from reconciler.gateway.config import Content
from reconciler.gateway.crossings import Crossings, side_of
from reconciler.gateway.extras import header_rules
from reconciler.gateway.lanes import LanePool, Lease, Phase
from reconciler.gateway.near import room_of
from reconciler.gateway.rows import Row, make_row
from reconciler.gateway.servers import Known, merge, read_server, server_address, server_name
from reconciler.gateway.signals import Answer
from reconciler.gateway.state import Running, Saved
from reconciler.gateway.traffic import CODE_CLASSES, CellHistogram, Latency, Ledger
from specs.evidence import Evidence, LatencyCounts
from specs.observed import Endpoint, GatewaySeen, LaneSeen, TrafficSeen
from specs.routes import RouteTable, ServiceRoute, StickyKind

DEFAULT_PATIENCE = timedelta(minutes=10)

MOST_DRAINED = 1000
"""A daemon looks every other second: so many cells do not go meanwhile."""


class Book:
    """The gateway's memory. Nothing here waits or talks to anybody."""

    def __init__(self, lanes: int, saved: Saved, zone: str | None = None) -> None:
        """Open with what a former daemon saved; `zone` is the gateway's own."""
        self.zone = zone
        self.pool = LanePool(lanes, saved.leases)
        self.table = saved.table
        self.known: dict[str, tuple[Known, ...]] = dict(saved.known)
        self.reloads = saved.reloads
        self.ledger = Ledger(saved.ledger)
        self.clients = ClientLedger(saved.clients)
        self.crossings = Crossings(saved.crossings)
        self.stats: dict[str, LaneStat] = {}
        """The lanes in use, as last read."""
        self.timed = 0
        """Answers whose latency was counted since this daemon began."""
        self._drained: deque[str] = deque(maxlen=MOST_DRAINED)
        """Cells whose lanes were freed lately. The next daemon need not know: without it, it waits a little longer."""
        self._told: Mapping[str, tuple[Endpoint, ...]] = {}
        self._latency = {cell: Latency(counts) for cell, counts in saved.latency.items()}

    def saved(self, running: Running | None) -> Saved:
        """Return what the next daemon has to know."""
        return Saved(
            running=running,
            reloads=self.reloads,
            table=self.table,
            leases=self.pool.leases,
            known=self.known,
            ledger=self.ledger.state(),
            clients=self.clients.state(),
            crossings=self.crossings.state(),
            latency={cell: latency.counts for cell, latency in sorted(self._latency.items())},
        )

    def lease(self, table: RouteTable, now: datetime) -> tuple[Lease, ...]:
        """Take over a table; return the lanes that were free before."""
        self.table = table
        wanted = {
            cell.cell: timedelta(seconds=service.max_request_seconds)
            for service in table.services
            for cell in service.cells
        }
        fresh = self.pool.lease(wanted, now)
        for lease in fresh:
            told = self._told.get(lease.cell, ())
            self.known.setdefault(lease.cell, tuple(Known(endpoint=endpoint) for endpoint in told))
        return fresh

    def release(self, now: datetime) -> tuple[Lease, ...]:
        """Let the lanes drain whose cells are not in the table any more."""
        return self.pool.release((cell.cell for service in self.table.services for cell in service.cells), now)

    def tell(
        self, endpoints: Mapping[str, tuple[Endpoint, ...]], *, complete: bool, now: datetime, unseen: timedelta
    ) -> bool:
        """Take an observation of endpoints; return whether anything is new."""
        self._told = dict(endpoints) if complete else {**self._told, **endpoints}
        before = dict(self.known)
        for lease in self.pool.leases:
            if lease.phase is not Phase.COOLING:
                known = self.known.get(lease.cell, ())
                told = endpoints.get(lease.cell, ())
                self.known[lease.cell] = merge(known, told, complete=complete, now=now, unseen=unseen)
        return before != self.known

    def rows(self) -> dict[str, Row]:
        """Return the table's rows by their key in the route map."""
        lanes = {lease.cell: lease.lane for lease in self.pool.leases if lease.phase is not Phase.COOLING}
        rooms = {cell: room_of(entry.endpoint for entry in known) for cell, known in self.known.items()}
        rows = (make_row(service, lanes, self.zone, rooms) for service in self.table.services)
        return {row.key: row for row in rows}

    def content(self) -> Content:
        """Return what a new HAProxy has to know from its first request: servers that were up when last seen."""
        servers: dict[str, tuple[str, ...]] = {}
        for lease in self.pool.leases:
            if lease.phase is not Phase.COOLING and lease.lane in self.stats:
                up = (stat for stat in self.stats[lease.lane].servers if stat.is_up)
                servers[lease.lane] = tuple(f"{stat.name} {stat.address}" for stat in up)
        return Content(
            rows=tuple(self.rows().values()),
            headers=header_rules(self.table),
            prefixes={lease.lane: prefix(lease.cell) for lease in self.pool.leases},
            servers=servers,
            patience=max((lease.patience for lease in self.pool.leases), default=DEFAULT_PATIENCE),
        )

    def assume_up(self, servers: Mapping[str, Iterable[Endpoint]]) -> dict[str, tuple[str, ...]]:
        """Return server lines per lane for endpoints that a probe has just found ready."""
        return {
            lane: tuple(f"{server_name(endpoint)} {server_address(endpoint)}" for endpoint in endpoints)
            for lane, endpoints in servers.items()
        }

    def free(self, lease: Lease) -> None:
        """Give a cooled lane back; forget its cell, unless it came back meanwhile and has another lane."""
        self.pool.free(lease.lane)
        self._drained.append(lease.cell)
        if lease.cell not in self.cells():
            self.known.pop(lease.cell, None)
            self._latency.pop(lease.cell, None)

    def add_latency(self, answer: Answer, now: datetime) -> None:
        """Count an answer's time to headers for the cell that holds its lane."""
        lease = self.pool.get(answer.lane)
        if lease is not None:
            self.timed += 1
            self._latency.setdefault(lease.cell, Latency()).add(answer.seconds, answer.weight, now)
            if answer.group is not None:
                self.clients.time(lease.cell, answer.group, answer.seconds)

    def credit_crossings(self, generation: int, now: datetime) -> None:
        """Take the servers' counters as last read, by where they are."""
        if self.zone is None:
            return
        servers = []
        zones = {cell.cell: cell.zone for service in self.table.services for cell in service.cells}
        for lease in self.pool.leases:
            known = {server_name(entry.endpoint): entry.endpoint.zone for entry in self.known.get(lease.cell, ())}
            for stat in self.stats[lease.lane].servers if lease.lane in self.stats else ():
                servers.append(f"{generation}:{lease.lane}/{stat.name}")
                # Serve's proxies are anywhere, the replicas of a cell in its zone.
                zone = zones.get(lease.cell) or known.get(stat.name, "")
                self.crossings.credit(lease.cell, servers[-1], stat.requests, side_of(zone, self.zone))
        self.crossings.keep(self.cells(), servers, now)

    def cross_zone(self) -> dict[str, float]:
        """Return which part of each service's requests lately left the gateway's zone; services without any are out."""
        if self.zone is None:
            return {}
        shares = {
            service.service: self.crossings.share(cell.cell for cell in service.cells)
            for service in self.table.services
        }
        return {service: share for service, share in shares.items() if share is not None}

    def credit_unrouted(self, generation: int, counts: Mapping[str, int]) -> None:
        """Take a reading of the gateway's own 503s: they count for the cell with the most weight."""
        for service, count in counts.items():
            row = self.table.service(service)
            cell = answerable(row) if row else None
            if cell is not None:
                self.ledger.credit_unrouted(cell, generation, service, count)

    def cells(self) -> tuple[str, ...]:
        """Return all cells that hold a lane, also while it drains or cools."""
        return tuple(lease.cell for lease in self.pool.leases)

    def seen(self, routed: Iterable[Row], now: datetime, *, is_direct: bool) -> GatewaySeen:
        """Return the gateway's view, given the rows that HAProxy has."""
        weights = {lane: weight for row in routed for lane, weight in row.weights().items()}
        held = [lease for lease in self.pool.leases if lease.phase is not Phase.COOLING]
        lanes = tuple(
            LaneSeen(
                cell=lease.cell,
                weight=weights.get(lease.lane, 0),
                up=self._up(lease),
                in_flight=self.stats[lease.lane].in_flight if lease.lane in self.stats else 0,
            )
            for lease in held
        )
        cooling = {lease.cell for lease in self.pool.leases if lease.phase is Phase.COOLING}
        sticky = self._sticky_cells()
        traffic = tuple(self._traffic(lease, now, by_client=lease.cell in sticky) for lease in held)
        return GatewaySeen(
            is_direct=is_direct,
            lanes=lanes,
            traffic=traffic,
            reloads=self.reloads,
            zone=self.zone,
            cross_zone=self.cross_zone(),
            drained=frozenset(cooling.union(self._drained) - {lease.cell for lease in held}),
        )

    def statuses(self, cell: str) -> dict[str, str]:
        """Return HAProxy's status per replica of a cell."""
        lease = self.pool.lane_of(cell)
        stat = self.stats.get(lease.lane) if lease else None
        servers = stat.servers if stat else ()
        return {read_server(server.name, server.address).replica: server.status for server in servers}

    def _up(self, lease: Lease) -> frozenset[str]:
        stat = self.stats.get(lease.lane)
        servers = stat.servers if stat else ()
        return frozenset(read_server(server.name, server.address).replica for server in servers if server.is_up)

    def _sticky_cells(self) -> frozenset[str]:
        """Return the cells whose clients stay on their version, and are told apart by group."""
        services = (one for one in self.table.services if one.sticky and one.sticky.kind is not StickyKind.OVER)
        return frozenset(cell.cell for service in services for cell in service.cells)

    def _traffic(self, lease: Lease, now: datetime, *, by_client: bool) -> TrafficSeen:
        counts, unrouted = self.ledger.of(lease.cell), self.ledger.unrouted.get(lease.cell, 0)
        latency = self._latency.get(lease.cell)
        in_flight = self.stats[lease.lane].in_flight if lease.lane in self.stats else 0
        return TrafficSeen(
            cell=lease.cell,
            requests=counts.requests,
            errors=counts.errors,
            aborted=counts.aborted,
            unrouted=unrouted,
            p50=latency.quantile(0.5, now) if latency else None,
            p99=latency.quantile(0.99, now) if latency else None,
            evidence=Evidence(
                # An open stream is neither a success nor an error yet.
                requests=max(0, counts.requests - in_flight),
                errors=counts.errors,
                aborted=counts.aborted,
                unrouted=unrouted,
                latency=latency.counts if latency else LatencyCounts(),
                clients=self.clients.of(lease.cell) if by_client else (),
            ),
        )

    def histograms(self) -> tuple[CellHistogram, ...]:
        """Return the latency histograms of all cells that have one, by cell."""
        return tuple(self._latency[cell].histogram(cell) for cell in sorted(self._latency))

    def codes(self) -> dict[str, dict[str, int]]:
        """Return ended requests per cell by code class; `none`: no answer; `unrouted`: never reached the cell."""
        in_flight: Counter[str] = Counter()
        for lease in self.pool.leases:
            in_flight[lease.cell] += self.stats[lease.lane].in_flight if lease.lane in self.stats else 0
        return {
            cell: {
                **dict(zip(CODE_CLASSES, counts.codes, strict=True)),
                "none": max(0, counts.requests - sum(counts.codes) - in_flight[cell]),
                "unrouted": self.ledger.unrouted.get(cell, 0),
            }
            for cell, counts in sorted(self.ledger.totals.items())
        }


def prefix(cell: str) -> str:
    """Return a cell's private route prefix; like `CellKey.route_prefix`, without reading the name."""
    return f"/_/{cell}"


def answerable(service: ServiceRoute) -> str | None:
    """Return the cell that should have answered an unrouted request: the first with the most weight."""
    best = max(service.cells, key=lambda cell: cell.weight, default=None)
    return best.cell if best else None
