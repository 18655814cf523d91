"""Which replicas get no new requests any more, because their nodes are about to be taken away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from specs.memory import Memory
from specs.observed import Endpoint, Node


def without_leaving(
    endpoints: Mapping[str, tuple[Endpoint, ...]], nodes: Iterable[Node], memory: Memory, now: datetime
) -> Mapping[str, tuple[Endpoint, ...]]:
    """Return endpoints per cell, those marked that are left: their node's time is nearly over.

    Not where a service has no other: a replica that answers for half a minute more is better than none.
    """
    left = {node.id for node in nodes if node.preemption is not None and now >= node.preemption.left_at}
    if not left:
        return endpoints
    owners = {cell.key.name: service.name for service in memory.services.values() for cell in service.cells}
    safe = {owners.get(cell, cell) for cell, found in endpoints.items() if any(one.node not in left for one in found)}
    return {
        cell: tuple(replace(one, is_leaving=one.node in left and owners.get(cell, cell) in safe) for one in found)
        for cell, found in endpoints.items()
    }
