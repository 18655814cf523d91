"""The route table that Memory stands for."""

from __future__ import annotations

from specs.memory import Memory, ServiceMemory
from specs.observed import GatewaySeen
from specs.routes import CellWeight, RouteTable, ServiceRoute


def route_table(memory: Memory) -> RouteTable:
    """Return every service's row: its cells that are not retired, stable first, with their weights."""
    rows = (_row(service) for _, service in sorted(memory.services.items()))
    return RouteTable(services=tuple(row for row in rows if row is not None))


def _row(service: ServiceMemory) -> ServiceRoute | None:
    revisions = [service.stable, service.candidate, *(out.revision for out in service.outgoing)]
    cells = [cell for revision in dict.fromkeys(revisions) if revision for cell in service.cells_of(revision)]
    if service.is_removed or not cells:
        return None
    weights = tuple(CellWeight(cell=cell.key.name, weight=service.weights.get(cell.key.name, 0)) for cell in cells)
    return ServiceRoute(
        service=service.name,
        route=service.wanted.route,
        cells=weights,
        max_request_seconds=service.wanted.revision.max_request_duration.total_seconds(),
    )


def is_routed(table: RouteTable, gateway: GatewaySeen) -> bool:
    """Return whether the gateway shows a lane with the right weight for every cell of the table."""
    for row in table.services:
        for cell in row.cells:
            lane = gateway.lane(cell.cell)
            if lane is None or lane.weight != cell.weight:
                return False
    return True
