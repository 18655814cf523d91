"""Which replicas get no new requests any more, because their nodes are about to be taken away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from specs.memory import CellMemory, Memory
from specs.observed import Endpoint, GatewaySeen, LaneSeen
from specs.preemption import Preemption

Endpoints = Mapping[str, tuple[Endpoint, ...]]
"""By cell."""

Side = tuple[str, str, bool]
"""A service's revision, or the baseline of one: what shares are given to, and may not pass to another."""


def left_at(notices: Iterable[Preemption], now: datetime) -> frozenset[str]:
    """Return the nodes that nothing new is to be sent to any more."""
    return frozenset(notice.node for notice in notices if now >= notice.left_at)


def without_leaving(endpoints: Endpoints, left: frozenset[str], memory: Memory, gateway: GatewaySeen) -> Endpoints:
    """Return endpoints per cell, those marked that are on nodes in `left`: their time is nearly over.

    Not where nothing would be left that takes a revision's requests: a replica that answers for half a minute more
    is better than none, and a candidate on trial may not inherit what its stable revision had.
    """
    sides = {cell.key.name: _side(cell) for service in memory.services.values() for cell in service.cells}
    lanes: dict[Side, list[LaneSeen]] = {}
    for lane in gateway.lanes:
        if lane.cell in sides:
            lanes.setdefault(sides[lane.cell], []).append(lane)
    safe = {side for side, held in lanes.items() if _goes_on(held, endpoints, left)}
    return {
        cell: tuple(replace(one, is_leaving=one.node in left and sides.get(cell) in safe) for one in found)
        for cell, found in endpoints.items()
    }


def _side(cell: CellMemory) -> Side:
    return cell.key.service, cell.key.revision, cell.is_baseline


def _goes_on(lanes: Iterable[LaneSeen], endpoints: Endpoints, left: frozenset[str]) -> bool:
    """Return whether a server stays that passes its checks, in a lane that requests reach.

    Lanes without weight are not in the gateway's rows. Where no lane of a revision has any, each may be the first to.
    """
    held = tuple(lanes)
    routed = [lane for lane in held if lane.weight > 0] or held
    return any(
        one.replica in lane.up and one.node not in left for lane in routed for one in endpoints.get(lane.cell, ())
    )
