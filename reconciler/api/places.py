"""The page's picture of the cluster: nodes as boxes by zone, replicas in them by service and revision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from reconciler.api.views import role_of
from specs.observed import Node, NodeState, ReplicaState
from specs.placement import MARKET_LABEL
from specs.seats import Seat
from specs.status import ClusterStatus

HUES = 8
"""Colours that are told apart; with more services they are used again."""

MOST_NODES = 60
"""More boxes than this nobody reads, and a browser draws them anew at each change."""


@dataclass(frozen=True, kw_only=True)
class SeatView:
    """One replica: its colour (0 for applications of others), how it is drawn, and what it is in words."""

    hue: int
    role: str
    state: str
    title: str


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """One node's box; `state` is "" for one that simply works."""

    title: str
    state: str
    tone: str
    room: str
    seats: tuple[SeatView, ...]


@dataclass(frozen=True, kw_only=True)
class ZoneView:
    """A zone and its nodes."""

    name: str
    nodes: tuple[NodeView, ...]


@dataclass(frozen=True, kw_only=True)
class PlacesView:
    """The picture. `waiting` are replicas without a node; `legend` names each colour; `left_out` nodes have no box."""

    zones: tuple[ZoneView, ...]
    waiting: tuple[SeatView, ...]
    legend: tuple[tuple[int, str], ...]
    left_out: int


def places_view(cluster: ClusterStatus, nodes: tuple[Node, ...], seats: tuple[Seat, ...]) -> PlacesView:
    """Return the picture of nodes and the replicas on them.

    A dead node has no box any more once a living one has its address and Serve lists nothing on it.
    """
    living = {node.ip for node in nodes if node.is_alive}
    seated = {seat.node for seat in seats}
    nodes = tuple(node for node in nodes if node.is_alive or node.ip not in living or node.id in seated)
    hues = _hues(seats)
    drawn = {seat: _seat(cluster, seat, hues.get(seat.service, 0)) for seat in seats}
    shown = sorted(nodes, key=lambda node: (node.zone or "", not node.is_head, node.ip))[:MOST_NODES]
    known = {node.id for node in nodes}
    boxes = [(node.zone or "", _node(node, [drawn[seat] for seat in seats if seat.node == node.id])) for node in shown]
    return PlacesView(
        zones=tuple(
            ZoneView(name=zone, nodes=tuple(box for where, box in boxes if where == zone))
            for zone in sorted({where for where, _ in boxes})
        ),
        waiting=tuple(view for seat, view in drawn.items() if seat.node not in known),
        legend=_legend(hues, seats),
        left_out=len(nodes) - len(shown),
    )


def _hues(seats: Iterable[Seat]) -> Mapping[str, int]:
    names = sorted({seat.service for seat in seats if seat.service})
    return {name: place % HUES + 1 for place, name in enumerate(names)}


def _legend(hues: Mapping[str, int], seats: Iterable[Seat]) -> tuple[tuple[int, str], ...]:
    others = ((0, "not Heliostat's"),) if any(not seat.service for seat in seats) else ()
    return (*((hue, name) for name, hue in hues.items()), *others)


def _seat(cluster: ClusterStatus, seat: Seat, hue: int) -> SeatView:
    status = next((service for service in cluster.services if service.name == seat.service), None)
    role = role_of(status, seat.revision) if status else ""
    state = "moving" if seat.is_migrating else seat.state.value.lower()
    whose = f"{seat.service} {seat.revision}{f', {role}' if role else ''}" if seat.service else seat.application
    return SeatView(hue=hue, role=role, state=state, title=f"{whose}: {seat.deployment} {_words(seat)}")


def _words(seat: Seat) -> str:
    if seat.is_migrating:
        return "moves away: its node is being drained"
    if seat.state is ReplicaState.STARTING and not seat.node:
        return "waits for a node"
    return {"STARTING": "starts", "RUNNING": "runs", "STOPPING": "stops"}[seat.state.value]


def _node(node: Node, seats: Iterable[SeatView]) -> NodeView:
    state, tone = _state(node)
    kinds = [f"{node.resources[kind]:g} {kind}" for kind in ("CPU", "GPU") if node.resources.get(kind)]
    market = node.labels.get(MARKET_LABEL, "")
    return NodeView(
        title=node.ip, state=state, tone=tone, room=" · ".join([*filter(None, [market]), *kinds]), seats=tuple(seats)
    )


def _state(node: Node) -> tuple[str, str]:
    match node.state:
        case NodeState.DEAD:
            return "dead", "bad"
        case NodeState.PREEMPTED | NodeState.DRAINING:
            return "draining", "warn"
        case NodeState.ALIVE:
            return ("head", "plain") if node.is_head else ("", "")
        case _:
            assert_never(node.state)
