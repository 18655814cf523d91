"""Rollouts that wait for the same room on full nodes: who may hold a part of it, so that they cannot wait for ever.

A new revision with several deployments serves only when each of them has a replica. Two rollouts that each hold room
for one and wait for room for the other would wait for each other. So of those that wait, one may hold what it has:
the eldest that would fit if nobody else held anything. All others give way: what their weight does not need goes, and
a candidate without any weight goes whole; it is created again when its turn comes. The one that holds gets all the
room there is, moves on, and is not among the waiting any more: each turn ends with a rollout that has moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from policies.recall import recalled
from policies.resources import Shortage, free_resources, has_room, shortages, usable_nodes
from policies.view import ServiceView, view_of
from specs.memory import Rollout
from specs.observed import Node, ReplicaState
from specs.selectors import matches

TURN = timedelta(minutes=30)
"""What is arithmetic to us is Serve's to do. Whom it finds no place for all the same loses its turn after this."""

Need = tuple[Mapping[str, float], Mapping[str, str]]
"""What one replica takes, and the labels that its node must have."""


def gives_way_to(view: ServiceView) -> str | None:
    """Return the service that a rollout has to give way to, or None."""
    if not _waits(view):
        return None
    waiting = sorted(
        (other for name in view.world.memory.services if _waits(other := view_of(view.world, name))), key=_age
    )
    turn = int(view.now.timestamp() // TURN.total_seconds()) % len(waiting)
    in_turn = [*waiting[turn:], *waiting[:turn]] if _is_stuck(waiting[0]) else waiting
    holder = next((other for other in in_turn if _would_fit(other, waiting)), None)
    return holder.name if holder is not None and holder.name != view.name else None


@recalled
def _waits(view: ServiceView) -> bool:
    """Return whether a rollout waits for room, by Serve's own word, or gave way to somebody and waits for its turn."""
    rollout = view.memory.rollout
    if view.memory.candidate is None or rollout is None or view.memory.pause is not None or view.spec.suspend:
        return False
    return bool(rollout.yields_to) or any(
        not _stops_first(view, short) for short in shortages(view, view.memory.candidate)
    )


def _stops_first(view: ServiceView, short: Shortage) -> bool:
    """Return whether old replicas make room by themselves: such a rollout waits for nobody else."""
    return view.budget(short.deployment).unavailable > 0


def _age(view: ServiceView) -> tuple[float, str]:
    rollout = view.memory.rollout
    return (rollout.started_at.timestamp() if rollout is not None else 0.0, view.name)


def _is_stuck(view: ServiceView) -> bool:
    """Return whether the eldest has had the room for a whole turn and is still waiting."""
    rollout: Rollout | None = view.memory.rollout
    return rollout is not None and view.now - rollout.started_at >= TURN


def is_weightless(view: ServiceView) -> bool:
    """Return whether the candidate carries nothing, so that it costs no request to take it away for a while."""
    candidate = view.memory.candidate or ""
    return view.weights.get(candidate, 0) == 0 and not view.is_commanded(candidate)


def _would_fit(view: ServiceView, waiting: Iterable[ServiceView]) -> bool:
    """Return whether everything that a rollout waits for would have room if no other one held a part of it.

    What is stopping is as good as gone: to count it would make whoever has just been given way to step back.
    """
    nodes = {node.id: node for node in usable_nodes(view.observed)}
    room = {node: dict(resources) for node, resources in free_resources(view.observed).items()}
    released = {cell for other in waiting for cell in _released(other)}
    for cell in view.observed.cells:
        for seen in cell.deployments:
            for replica in seen.replicas:
                goes = cell.name in released or replica.state is ReplicaState.STOPPING
                if goes and replica.node in room:
                    for name, need in seen.needs.items():
                        room[replica.node][name] = room[replica.node].get(name, 0.0) + need
    needs = sorted(_needs(view), key=lambda need: -sum(need[0].values()))
    return all(_placed(need, nodes, room) for need in needs)


def _placed(need: Need, nodes: Mapping[str, Node], room: dict[str, dict[str, float]]) -> bool:
    """Take room for one replica on the first node that has it."""
    amounts, selector = need
    for node in sorted(nodes):
        if matches(nodes[node].labels, selector) and has_room(amounts, room[node]):
            for name, amount in amounts.items():
                room[node][name] -= amount
            return True
    return False


def _released(view: ServiceView) -> Iterable[str]:
    """Return the cells that a rollout would let go if it gave way whole; of one with weight nothing is counted on."""
    return (cell.name for cell in view.cells_of(view.memory.candidate)) if is_weightless(view) else ()


def _needs(view: ServiceView) -> list[Need]:
    """Return what a rollout waits for: all of a candidate that can be taken away, else what has no node yet."""
    cells = [cell for cell in view.cells_of(view.memory.candidate) if cell.seen is not None]
    if not cells:
        return _first_needs(view)
    needs: list[Need] = []
    for cell in cells:
        for seen in cell.seen.deployments if cell.seen is not None else ():
            homeless = sum(1 for replica in seen.replicas if not replica.node)
            count = cell.commanded(seen.name) if is_weightless(view) else homeless
            needs += [(seen.needs, seen.selector)] * count
    return needs


def _first_needs(view: ServiceView) -> list[Need]:
    """Return one replica of each deployment, as the stable revision's are: of the new one nothing was seen yet."""
    stable = [cell.seen for cell in view.cells_of(view.memory.stable) if cell.seen is not None]
    return [(seen.needs, seen.selector) for application in stable[:1] for seen in application.deployments]
