"""What people see of compaction: the plan node by node, and what has come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from policies.compaction.problem import Answer
from policies.compaction.situation import Situation
from policies.compaction.steps import Wait
from policies.compaction.wishes import asks, in_words
from specs.compaction import CompactionMemory, CompactionSettings, CompactionStatus, Holding, PlannedMove, PlannedNode
from specs.observed import Node
from specs.placement import MARKET_LABEL
from specs.wishes import Prefer
from specs.world import World


@dataclass(frozen=True, kw_only=True)
class Look:
    """A plan, and the moment that it is for. `refused` is what the node provider says of nodes that would go."""

    world: World
    situation: Situation
    answer: Answer
    refused: Mapping[str, str] = field(default_factory=dict)
    holdings: tuple[Holding, ...] = ()
    heard: Prefer | Wait | None = None
    """What another package's policy wishes, or why it has no say in it; None when none is named."""


def status_of(
    memory: CompactionMemory, settings: CompactionSettings, look: Look | None, *, state: str, message: str
) -> CompactionStatus:
    """Return the status: with the plan of the last look, if there was one."""
    status = CompactionStatus(
        state=state,
        message=message,
        enabled=settings.enabled,
        drains=memory.drains,
        given_up=memory.given_up,
        freed=memory.freed,
    )
    if look is None:
        return status
    answer, problem = look.answer, look.situation.problem
    return replace(
        status,
        at=look.world.now,
        cost=problem.cost,
        cost_after=answer.cost,
        bound=answer.bound,
        gap=answer.gap,
        is_best=answer.is_best,
        nodes=_nodes(look),
        moves=_moves(look),
        reserves=look.situation.reserves,
        policy=asks(settings),
        wish=_wish(look),
    )


def _wish(look: Look) -> str:
    match look.heard:
        case Prefer() as wish:
            return in_words(wish)
        case Wait(message=message):
            return message
        case _:
            return ""


def _nodes(look: Look) -> tuple[PlannedNode, ...]:
    seen = {node.id: node for node in look.world.observed.nodes}
    problem, answer = look.situation.problem, look.answer
    freed = set(answer.freed)
    nodes = [
        PlannedNode(
            node=machine.id,
            ip=seen[machine.id].ip,
            zone=seen[machine.id].zone or "",
            market=seen[machine.id].labels.get(MARKET_LABEL, ""),
            price=machine.price,
            replicas=look.situation.replicas.get(machine.id, 0),
            goes=machine.id in freed,
            why=look.refused.get(machine.id) or machine.kept or _why_it_stays(look, machine.id, seen),
        )
        for machine in problem.machines
    ]
    return tuple(sorted(nodes, key=lambda node: (not node.goes, node.zone, node.ip)))


def _why_it_stays(look: Look, node: str, seen: Mapping[str, Node]) -> str:
    if node in look.answer.freed:
        return ""
    arriving = sum(move.count for move in look.answer.moves if move.target == node)
    if arriving:
        return f"{arriving} replicas come to it"
    if any(move.target == node for move in look.answer.spare):
        return "room for rollouts stays free on it"
    return "its replicas have no room elsewhere" if look.situation.replicas.get(node) else "its room is needed"


def _moves(look: Look) -> tuple[PlannedMove, ...]:
    ips = {node.id: node.ip for node in look.world.observed.nodes}
    return tuple(
        PlannedMove(
            cell=move.crowd.partition("#")[0],
            deployment=move.crowd.partition("#")[2],
            origin=ips[move.origin],
            target=ips[move.target],
            count=move.count,
        )
        for move in look.answer.moves
    )
