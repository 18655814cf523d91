"""Reading back what a running HAProxy serves, for a daemon that has lost or cannot read its own state."""

from __future__ import annotations

from datetime import datetime

from reconciler.gateway.admin import parse_map, parse_stat
from reconciler.gateway.book import DEFAULT_PATIENCE, prefix
from reconciler.gateway.config import LANES_MAP, NO_PREFIX, ROUTES_MAP
from reconciler.gateway.fleet import Fleet
from reconciler.gateway.lanes import Lease, Phase
from reconciler.gateway.rows import Row, parse_row
from reconciler.gateway.servers import Known, read_server
from reconciler.gateway.state import Saved
from specs.routes import CellWeight, RouteTable, ServiceRoute

PREFIX = prefix("")


async def recollect(fleet: Fleet, now: datetime) -> Saved:
    """Return table, leases and endpoints as HAProxy has them. Raises AdminError when it is silent.

    What it does not know: the longest request of a service (the default is taken), cells without weight
    (their lanes drain unless the next table has them) and which headers a rule is made of (the next table says).
    """
    routes, lanes = await fleet.ask([f"show map {ROUTES_MAP}", f"show map {LANES_MAP}"])
    leased = {lane: entry.removeprefix(PREFIX) for lane, entry in parse_map(lanes).items() if entry != NO_PREFIX}
    rows = tuple(parse_row(text) for text in parse_map(routes).values())
    stats = await fleet.ask([f"show stat {lane} 6 -1" for lane in leased])
    servers = {lane: parse_stat(text).servers for lane, text in zip(leased, stats, strict=True)}
    return Saved(
        running=fleet.running(),
        table=RouteTable(services=tuple(_service(row, leased) for row in rows)),
        leases=tuple(
            Lease(lane=lane, cell=cell, phase=Phase.LEASED, since=now, patience=DEFAULT_PATIENCE)
            for lane, cell in leased.items()
        ),
        known={
            cell: tuple(Known(endpoint=read_server(server.name, server.address)) for server in servers[lane])
            for lane, cell in leased.items()
        },
    )


def _service(row: Row, leased: dict[str, str]) -> ServiceRoute:
    weights = row.weights()
    cells = tuple(CellWeight(cell=leased[lane], weight=weight) for lane, weight in weights.items())
    return ServiceRoute(service=row.service, route=row.route, cells=cells, sticky=row.extras.sticky)
