"""What of a report only a reader needs, and what is too dear to reckon at every turn: the bounds of each effect."""

from __future__ import annotations

from dataclasses import replace

from policies.verdicts import judgement_in_full
from policies.view import view_of
from specs.status import ClusterStatus, ServiceStatus
from specs.world import World


def in_full(status: ClusterStatus, world: World, only: str | None = None) -> ClusterStatus:
    """Return a status with the bounds of its verdicts, by the world that it was reported from.

    Those of one service, or of all.
    """
    services = tuple(
        _in_full(service, world) if only in (None, service.name) else service for service in status.services
    )
    return replace(status, services=services)


def _in_full(service: ServiceStatus, world: World) -> ServiceStatus:
    if service.analysis is None or service.name not in world.memory.services:
        return service
    found = judgement_in_full(view_of(world, service.name))
    if found is None:
        return service
    return replace(service, analysis=replace(service.analysis, verdicts=found.verdicts))
