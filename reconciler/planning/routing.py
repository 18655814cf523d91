"""The route table that Memory stands for."""

from __future__ import annotations

from policies.once import once
from policies.steps import header_matches
from specs.memory import CellMemory, Memory, ServiceMemory
from specs.observed import GatewaySeen
from specs.routes import CellWeight, HeaderRoute, RouteTable, ServiceRoute, Sticky, StickyKind


def route_table(memory: Memory) -> RouteTable:
    """Return every service's row: its cells that are not retired, stable first, with their weights."""
    rows = (_row(service) for _, service in sorted(memory.services.items()))
    return RouteTable(services=tuple(row for row in rows if row is not None))


@once
def _row(service: ServiceMemory) -> ServiceRoute | None:
    revisions = [service.stable, service.candidate, *(out.revision for out in service.outgoing)]
    ordered = dict.fromkeys(revision for revision in revisions if revision)
    # A baseline stands beside its revision: clients that are held to a share stay on that revision.
    cells = [cell for revision in ordered for cell in sorted(service.cells_of(revision), key=_is_baseline)]
    if service.is_removed or not cells:
        return None
    weights = tuple(
        CellWeight(cell=cell.key.name, weight=service.weights.get(cell.key.name, 0), zone=cell.key.zone)
        for cell in cells
    )
    return ServiceRoute(
        service=service.name,
        route=service.wanted.route,
        cells=weights,
        max_request_seconds=service.wanted.revision.max_request_duration.total_seconds(),
        sticky=_sticky(service, weights),
        header=_header(service),
        may_prefer_zone=_may_prefer_zone(service, weights),
    )


def _may_prefer_zone(service: ServiceMemory, weights: tuple[CellWeight, ...]) -> bool:
    """Return whether a gateway may prefer its zone: one revision gets all requests, and it is not watched.

    Revisions are compared by requests that go by weights alone, over zones and load alike.
    """
    stable = {cell.key.name for cell in service.cells_of(service.stable)}
    is_alone = all(cell.cell in stable for cell in weights if cell.weight > 0)
    return is_alone and service.candidate is None and service.baking is None


def _is_baseline(cell: CellMemory) -> bool:
    return cell.is_baseline


def _sticky(service: ServiceMemory, weights: tuple[CellWeight, ...]) -> Sticky | None:
    """Return how clients are kept on their version: while there are two, and until all of a rollback is back.

    And while the new one is watched: what it answers is compared by client, too.
    Afterwards cookies are taken back for as long as the spec names them.
    """
    sticky = service.wanted.rollout.sticky
    if sticky is None:
        return None
    rolls_out = service.stable is not None and service.candidate is not None
    if rolls_out or service.baking is not None or sum(cell.weight > 0 for cell in weights) > 1:
        return sticky
    return Sticky(kind=StickyKind.OVER, name=sticky.name) if sticky.kind is StickyKind.COOKIE else None


def _header(service: ServiceMemory) -> HeaderRoute | None:
    """Return the header route of the step at which the rollout stands."""
    cells = service.cells_of(service.candidate)
    matches = header_matches(service.rollout, service.wanted.rollout.steps)
    if service.stable is None or not cells or not matches:
        return None
    return HeaderRoute(cell=cells[0].key.name, matches=matches)


def is_routed(table: RouteTable, gateway: GatewaySeen) -> bool:
    """Return whether the gateway shows a lane with the right weight for every cell of the table."""
    for row in table.services:
        for cell in row.cells:
            lane = gateway.lane(cell.cell)
            if lane is None or lane.weight != cell.weight:
                return False
    return True
