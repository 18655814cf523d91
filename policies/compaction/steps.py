"""The steps of compaction: which node is emptied next, and what becomes of those that are being emptied. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from policies.compaction.problem import Answer
from policies.compaction.situation import Situation, placed_by_serve
from policies.membership import moving
from policies.resources import has_room
from specs.compaction import CompactionMemory, CompactionSettings, DrainState, GivenUp, NodeDrain
from specs.memory import ServiceMemory
from specs.observed import DeploymentSeen, Node
from specs.selectors import matches
from specs.windows import is_open, opens_at
from specs.world import World

RETRY_AFTER = timedelta(hours=1)
"""A node that could not be emptied is left alone for so long: what was in the way is rarely over sooner."""

REFUSED_AGAIN_AFTER = timedelta(minutes=10)
"""A node that Ray does not drain because something is in use there goes on as it was: to ask again costs a job."""

TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class BeginDrain:
    """Empty this node: its replicas have room elsewhere wherever Serve puts them."""

    drain: NodeDrain


@dataclass(frozen=True, kw_only=True)
class NoteProgress:
    """Replicas have left a node that is being emptied."""

    node: str
    replicas: int


@dataclass(frozen=True, kw_only=True)
class Release:
    """A node is empty: give it back."""

    node: str


@dataclass(frozen=True, kw_only=True)
class KeepAfterAll:
    """A node is empty, but replicas wait for room by now: it is not given back, and may come back."""

    node: str
    why: str


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """A drain makes no progress: it is reported and not tried again for a while."""

    entry: GivenUp


@dataclass(frozen=True, kw_only=True)
class EndOrder:
    """What a person asked for is done, or cannot be done."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing to do now, and why. `state` is one of CompactionStatus."""

    state: str
    message: str
    until: datetime | None = None


Step = BeginDrain | NoteProgress | Release | KeepAfterAll | GiveUp | EndOrder

Plan = tuple[Answer, Mapping[str, str]]
"""An answer, and what the node provider refuses of it, by node."""


def follow(
    world: World, settings: CompactionSettings, memory: CompactionMemory, situation: Situation
) -> tuple[Step, ...]:
    """Return what is to be done about the nodes that are being emptied. What was begun is brought to an end."""
    if not world.observed.complete:
        return ()
    nodes = {node.id: node for node in world.observed.nodes if node.is_alive}
    found = (_followed(world, settings, drain, nodes, situation) for drain in memory.drains)
    return tuple(step for step in found if step is not None)


def _followed(
    world: World,
    settings: CompactionSettings,
    drain: NodeDrain,
    nodes: Mapping[str, Node],
    situation: Situation,
) -> Step | None:
    left = situation.replicas.get(drain.node, 0)
    if drain.node not in nodes or (left == 0 and drain.state is not DrainState.ASKED):
        why = _shortage(world)
        return KeepAfterAll(node=drain.node, why=why) if why else Release(node=drain.node)
    if left < drain.replicas:
        return NoteProgress(node=drain.node, replicas=left)
    if world.now - drain.progress_at < settings.stall_after + drain.patience:
        return None
    why = f"{left} replicas are still on it {world.now - drain.since} after its drain began"
    return GiveUp(entry=given_up(drain, why, world.now))


def given_up(drain: NodeDrain, why: str, now: datetime) -> GivenUp:
    """Return the record of a drain that is given up halfway."""
    return GivenUp(node=drain.node, ip=drain.ip, at=now, until=now + RETRY_AFTER, why=why, is_draining=True)


def not_begun(drain: NodeDrain, why: str, now: datetime) -> GivenUp:
    """Return the record of a drain that Ray did not begin."""
    return GivenUp(node=drain.node, ip=drain.ip, at=now, until=now + REFUSED_AGAIN_AFTER, why=why, is_draining=False)


def _shortage(world: World) -> str:
    """Return which replicas wait for a node; "" when none does.

    One that no node could hold even if it were empty waits for something else than these nodes, perhaps for ever:
    keeping them would not help it. Dead nodes count, for a lost zone or one that was just emptied may come back.
    """
    waiting = [
        f"{cell.name}#{seen.name}"
        for cell in world.observed.cells
        for seen in cell.deployments
        if seen.is_unplaced and (seen.is_scattered or any(_could_hold(node, seen) for node in world.observed.nodes))
    ]
    return f"replicas of {', '.join(waiting)} wait for room" if waiting else ""


def _could_hold(node: Node, seen: DeploymentSeen) -> bool:
    return matches(node.labels, seen.selector) and (not node.resources or has_room(seen.needs, node.resources))


def obstacle(world: World, settings: CompactionSettings, memory: CompactionMemory) -> Wait | None:
    """Return why no further node is emptied now, whatever a plan says; None when nothing is in the way."""
    if not settings.enabled and memory.order is None:
        return Wait(state="Off", message="compaction is not enabled in the ClusterPolicy")
    if world.desired is None:
        return Wait(state="Blind", message="the ClusterPolicy is not known before Git was read once")
    if not world.observed.complete:
        return Wait(state="Blind", message=world.observed.problem or "not everything can be seen")
    if held := _outside_windows(world, settings, memory):
        return held
    if busy := sorted(moving(world.memory.services)):
        return Wait(state="Waiting", message=f"waits for rollouts of {', '.join(busy)}")
    if short := _shortage(world):
        return Wait(state="Waiting", message=short)
    return _at_work(memory) if len(memory.drains) >= settings.max_nodes_at_once else None


def _at_work(memory: CompactionMemory) -> Wait:
    nodes = ", ".join(f"{drain.ip} ({drain.replicas} replicas left)" for drain in memory.drains)
    return Wait(state="Draining", message=f"being emptied: {nodes}")


def _outside_windows(world: World, settings: CompactionSettings, memory: CompactionMemory) -> Wait | None:
    """A person's order goes past compaction's own hours, not past those of the rollouts."""
    assert world.desired is not None
    own = () if memory.order is not None else settings.windows
    for windows, name in ((world.desired.settings.windows, "rollouts' windows"), (own, "compaction's windows")):
        if not is_open(windows, world.now):
            until = opens_at(windows, world.now)
            when = f"the next one opens at {until:%a %Y-%m-%d %H:%M} UTC" if until else "none opens in two weeks"
            return Wait(state="Waiting", message=f"outside of the {name}: {when}", until=until)
    return None


def begin(
    world: World,
    settings: CompactionSettings,
    memory: CompactionMemory,
    situation: Situation,
    plan: Plan,
) -> Step | Wait:
    """Return the next node to empty by a plan, or why there is none. The plan comes with what its provider refuses."""
    if situation.swinging:
        names = ", ".join(situation.swinging)
        text = f"{names}, autoscaled, changed its size less than {settings.settle} ago"
        return (
            _at_work(memory) if memory.drains else Wait(state="Waiting", message=text, until=situation.unsettled_until)
        )
    answer, refused = plan
    problem = situation.problem
    saving = situation.saved_by(answer.freed)
    if not answer.freed or saving < settings.min_saving - TOLERANCE:
        return _at_work(memory) if memory.drains else _nothing_to_gain(settings, memory, situation, saving)
    blocked: list[str] = []
    for node in sorted(answer.freed, key=lambda node: _turn(situation, node)):
        why = refused.get(node) or ("" if placed_by_serve(problem, node) else "Serve might place its replicas badly")
        if not why:
            return _begun(world, memory, situation, node)
        blocked.append(f"{node[:12]}: {why}")
    if memory.drains:
        return _at_work(memory)
    if memory.order is not None:
        return EndOrder(why="; ".join(blocked))
    return Wait(state="Waiting", message="; ".join(blocked))


def _turn(situation: Situation, node: str) -> tuple[int, int, str]:
    """Order nodes: those that are wished to go first, and then those with the fewest replicas."""
    wished = situation.first.index(node) if node in situation.first else len(situation.first)
    return wished, situation.replicas.get(node, 0), node


def _nothing_to_gain(
    settings: CompactionSettings, memory: CompactionMemory, situation: Situation, saving: float
) -> Step | Wait:
    if situation.unsettled_until is not None:
        text = f"waits for services whose replicas changed less than {settings.settle} ago"
        return Wait(state="Waiting", message=text, until=situation.unsettled_until)
    small = f"; what could be saved, {saving:g}, is below minSaving" if saving > TOLERANCE else ""
    if memory.order is not None:
        return EndOrder(why=f"no node can go any more{small}")
    return Wait(state="Compact", message=f"no node can go{small}")


def _begun(world: World, memory: CompactionMemory, situation: Situation, node: str) -> BeginDrain:
    found = next(one for one in world.observed.nodes if one.id == node)
    guests = [service for service in world.memory.services.values() if _is_on(world, service, node)]
    drain = NodeDrain(
        node=node,
        ip=found.ip,
        since=world.now,
        state=DrainState.ASKED,
        replicas=situation.replicas.get(node, 0),
        progress_at=world.now,
        patience=max((guest.wanted.revision.max_request_duration for guest in guests), default=timedelta(0)),
        by=memory.order.by if memory.order is not None else "heliostat",
    )
    return BeginDrain(drain=drain)


def _is_on(world: World, service: ServiceMemory, node: str) -> bool:
    cells = (world.observed.cell(cell.key.name) for cell in service.cells)
    return any(
        replica.node == node
        for cell in cells
        if cell is not None
        for seen in cell.deployments
        for replica in seen.replicas
    )
