"""Which replicas are where: what people look at when they think about zones, and about what nodes cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from specs.cells import parse_cell_name
from specs.observed import CellSeen, ReplicaState


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One replica and its node ("" while it waits for one).

    `service` and `revision` are "" where the application is not Heliostat's.
    """

    replica: str
    node: str
    application: str
    deployment: str
    service: str
    revision: str
    state: ReplicaState
    is_migrating: bool = False
    """It answers, and its node is being drained."""


def seats_of(cells: Iterable[CellSeen]) -> tuple[Seat, ...]:
    """Return every replica's seat, one service after the other, applications of others last."""
    found = [
        Seat(
            replica=replica.id,
            node=replica.node,
            application=cell.name,
            deployment=deployment.name,
            service=key.service if key else "",
            revision=key.revision if key else "",
            state=replica.state,
            is_migrating=replica.is_migrating,
        )
        for cell in cells
        for key in (parse_cell_name(cell.name),)
        for deployment in cell.deployments
        for replica in deployment.replicas
    ]
    return tuple(sorted(found, key=_place))


def _place(seat: Seat) -> tuple[bool, str, str, str, str]:
    return not seat.service, seat.service or seat.application, seat.revision, seat.deployment, seat.replica
