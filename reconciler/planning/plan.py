"""One World in, one Plan out. Every decision of a tick is made here, and none later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from policies.drift import dispute
from policies.groups import fallen_with
from policies.membership import adopt, prune, route_conflicts
from policies.pacing import Pace, Veto, in_turn
from policies.service import decide
from policies.view import view_of
from reconciler.planning.chronicle import event_of, history_of, is_news, noted
from reconciler.planning.drift import notice
from reconciler.planning.moment import Moment, Surroundings
from reconciler.planning.perceive import perceive, with_services
from reconciler.planning.remember import new_service, remember
from specs.decisions import Decision, ForgetService, Hold, RestoreCell
from specs.memory import CellMemory, Event, HistoryEntry, Memory, ServiceMemory
from specs.observed import CellSeen, CellStatus
from specs.reasons import Reason
from specs.unread import with_lost
from specs.world import World


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one look at the world leads to.

    `world` is the world with what was perceived; `decisions` are per service, the last one of each a
    Hold that says why it stands where it stands; `memory` is Memory after all of them.
    """

    world: World
    decisions: Mapping[str, tuple[Decision, ...]]
    memory: Memory
    events: tuple[Event, ...]
    history: tuple[HistoryEntry, ...]
    stage_python: str = "python"

    @cached_property
    def after(self) -> World:
        """Return the world with Memory after the decisions."""
        return self.world if self.memory is self.world.memory else replace(self.world, memory=self.memory)

    @property
    def is_quiet(self) -> bool:
        """Return whether there is nothing but Holds."""
        return all(isinstance(decision, Hold) for group in self.decisions.values() for decision in group)


def make_plan(
    world: World, surroundings: Surroundings, orders: Mapping[str, tuple[Decision, ...]] | None = None
) -> Plan:
    """Return the plan for `world`; `orders` are decisions that operators asked for, by service.

    Orders are carried out alone: the next look, a moment later, goes on from there.
    """
    before = limited(world, surroundings)
    draft = _Draft(world=perceive(before), surroundings=surroundings)
    for name in sorted(draft.services):
        draft.note(name, notice(before, name))
    draft.adopt()
    removals = prune(draft.world)
    conflicts = route_conflicts(draft.world)
    pace = Pace(world=draft.world, memory=draft.services, conflicts=conflicts)
    for name in in_turn(draft.services):
        ordered = (orders or {}).get(name, ())
        draft.take(name, ordered or _decisions(draft.world, name, removals.get(name), pace.veto))
    for name, falls in sorted(fallen_with(draft.services, draft.decisions).items()):
        draft.take_first(name, falls)
    return draft.finished()


def limited(world: World, surroundings: Surroundings) -> World:
    """Return the world with the daemon's own limits on what its commit's ClusterPolicy allows.

    What cannot be read where a known service was written is an error of its commit from here on; not for a service
    that is on its way out, for a commit that could be read has said so.
    """
    if world.desired is None:
        return world
    staying = (memory.wanted for memory in world.memory.services.values() if not memory.is_removed)
    desired = with_lost(world.desired, staying)
    prune = desired.settings.prune.within(surroundings.prune)
    return replace(world, desired=replace(desired, settings=replace(desired.settings, prune=prune)))


def _decisions(world: World, name: str, removal: Decision | None, veto: Veto) -> tuple[Decision, ...]:
    """A service that left Git is removed, or goes on as it is with the reason on top."""
    decided = decide(world, name, veto)
    if removal is None or not world.observed.complete:
        return (*_restored(world, name), *_disputed(world, name), *decided)
    if isinstance(removal, Hold):
        return (*_restored(world, name), *(decision for decision in decided if not isinstance(decision, Hold)), removal)
    return (removal,)


def _restored(world: World, name: str) -> tuple[Decision, ...]:
    """Put back cells that Serve had and that are gone, or going, in a complete observation.

    Whoever takes them away again and again is answered more and more slowly: two writers that race would
    cut each other's builds for ever.
    """
    memory = world.memory.services[name]
    heals = world.desired is None or world.desired.settings.self_heal
    if not world.observed.complete or memory.is_removed:
        return ()
    lost = [
        cell
        for cell in memory.cells
        if cell.was_seen and not cell.is_retired and _is_lost(world.observed.cell(cell.key.name))
    ]
    if lost and not heals:
        text = f"{lost[0].key.name} is missing in Serve and selfHeal is off"
        return (Hold(service=name, reason=Reason.SELF_HEAL_DISABLED, message=text),)
    return tuple(_put_back(name, cell, world.now) for cell in lost)


def _disputed(world: World, name: str) -> tuple[Hold, ...]:
    """Say what is left to somebody else for a while, and until when."""
    hold = dispute(view_of(world, name))
    return (hold,) if hold is not None and world.observed.complete else ()


def _put_back(service: str, cell: CellMemory, now: datetime) -> Decision:
    again = cell.restored_at + _patience(cell) if cell.restored_at is not None else now
    if cell.restores == 0 or now >= again:
        return RestoreCell(service=service, cell=cell.key)
    text = (
        f"{cell.key.name} was taken out of Serve {cell.restores} times: who else writes its document? "
        f"It is put back at {again:%H:%M:%S}"
    )
    return Hold(service=service, reason=Reason.DRIFTED, message=text, until=again)


def _patience(cell: CellMemory) -> timedelta:
    """Return how long to wait since the last time: 2, 4, 8 seconds and so on, at most a minute."""
    return min(timedelta(minutes=1), timedelta(seconds=float(2**cell.restores)))


def _is_lost(seen: CellSeen | None) -> bool:
    return seen is None or seen.status is CellStatus.DELETING


class _Draft:
    """A plan in the making: Memory as it becomes while decisions are taken one after the other."""

    def __init__(self, *, world: World, surroundings: Surroundings) -> None:
        self.world = world
        self.surroundings = surroundings
        self.services: dict[str, ServiceMemory] = dict(world.memory.services)
        self.decisions: dict[str, tuple[Decision, ...]] = {}
        self.events: list[Event] = [noted(note, world.now) for note in world.news]
        self.history: list[HistoryEntry] = []

    def adopt(self) -> None:
        """Take the specs of the commit first: everything else is decided by them."""
        for decision in adopt(self.world):
            if decision.service not in self.services:
                self.services[decision.service] = new_service(decision)
            before = self.services[decision.service]
            self.services[decision.service] = remember(before, decision, self._moment(None))
            if decision.wanted.revision.id != before.wanted.revision.id or before.stable is None:
                self._tell(decision, before)
        self.world = with_services(self.world, self.services)

    def note(self, name: str, noticed: tuple[Decision, ...]) -> None:
        """Remember what others did before anything is decided: healing depends on how often they did it."""
        self._remember(name, noticed)
        self.decisions[name] = noticed

    def take(self, name: str, decisions: tuple[Decision, ...]) -> None:
        """Remember the decisions of one service, in order."""
        self._remember(name, decisions)
        if any(isinstance(decision, ForgetService) for decision in decisions):
            del self.services[name]
        self.decisions[name] = (*self.decisions.get(name, ()), *decisions)

    def _remember(self, name: str, decisions: tuple[Decision, ...]) -> None:
        changes = [decision for decision in decisions if not isinstance(decision, Hold)]
        if not changes:
            return
        moment = self._moment(name)
        for decision in changes:
            before = self.services[name]
            self.services[name] = remember(before, decision, moment)
            self._tell(decision, before)

    def take_first(self, name: str, decisions: tuple[Decision, ...]) -> None:
        """Remember decisions that others' decisions call for; they come first in what is told of the service."""
        before = self.decisions[name]
        self.take(name, decisions)
        self.decisions[name] = (*decisions, *before)

    def finished(self) -> Plan:
        """Return the plan."""
        return Plan(
            world=self.world,
            decisions=self.decisions,
            memory=with_services(self.world, self.services).memory,
            events=tuple(self.events),
            history=tuple(self.history),
            stage_python=self.surroundings.stage_python,
        )

    def _moment(self, name: str | None) -> Moment:
        view = view_of(self.world, name) if name is not None else None
        return Moment(now=self.world.now, surroundings=self.surroundings, view=view)

    def _tell(self, decision: Decision, before: ServiceMemory) -> None:
        if not is_news(decision, before):
            return
        event = event_of(decision, self.world.now)
        if event is not None:
            self.events.append(event)
        commit = self.world.desired.commit if self.world.desired else None
        entry = history_of(decision, before, self.world.now, commit)
        if entry is not None:
            self.history.append(entry)
            self.services[decision.service] = replace(self.services[decision.service], acts=())
