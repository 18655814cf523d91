"""Deployments that the code has and the spec does not list, as far as they were seen: a plan cannot size them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from specs.desired import Desired
from specs.memory import ServiceMemory
from specs.planned import Action, PlannedChange, PlannedService


def warn_of_unlisted(change: PlannedChange, wanted: Desired, known: Mapping[str, ServiceMemory]) -> PlannedChange:
    """Return the change with a warning for each deployment that runs and that its new revision does not list."""

    def warned(service: PlannedService) -> PlannedService:
        memory, spec = known.get(service.name), wanted.service(service.name)
        if service.action is not Action.ROLL or memory is None or spec is None:
            return service
        listed = {deployment.name for deployment in spec.revision.deployments}
        if not listed:
            return service  # That none is listed is told without asking anybody.
        return replace(service, warnings=(*service.warnings, *_warnings(memory, listed)))

    return replace(change, services=tuple(map(warned, change.services)))


def _warnings(memory: ServiceMemory, listed: set[str]) -> Iterator[str]:
    running = {name for cell in memory.cells_of(memory.stable) for name in cell.targets}
    for name, count in sorted(memory.learned.items()):
        if name in running - listed:
            yield (
                f"{name} is not listed: the new revision starts it at its code's count ({count} in the one that runs) "
                "at once, outside of maxSurge, and only when it is seen is it counted; list it under "
                "application.deployments"
            )
