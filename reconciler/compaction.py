"""Compaction at work, beside the loop: look, plan, empty one node, watch, give it back.

It writes nothing that the loop writes: it drains nodes, and Serve moves the replicas. Each intent is saved before
Ray or the provider is told, so that whoever comes after a `kill -9` goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, assert_never

import structlog

from policies.compaction.check import may_still_go
from policies.compaction.situation import (
    Settled,
    Situation,
    expected_use,
    placed_by_serve,
    settle,
    situation_of,
)
from policies.compaction.steps import (
    RETRY_AFTER,
    BeginDrain,
    EndOrder,
    GiveUp,
    KeepAfterAll,
    NoteProgress,
    Release,
    Step,
    Wait,
    follow,
    given_up,
    not_begun,
    obstacle,
)
from policies.compaction.wishes import asks, heard, is_unknown, preferred
from policies.counsel import TOLD_AGAIN
from policies.registry import COMPACTION
from reconciler.errors import PortError, Retry, Stalled
from reconciler.planning.compaction_report import Look, status_of
from reconciler.ports import CompactionPorts
from reconciler.telling import save_telling
from specs.compaction import (
    CompactionMemory,
    CompactionSettings,
    CompactionStatus,
    DrainState,
    Emptied,
    GivenUp,
    NodeDrain,
    Order,
)
from specs.effects import SaveMemory
from specs.memory import Event
from specs.wishes import Advice, Prefer, read_advice, with_message
from specs.world import World

log = structlog.get_logger("heliostat")

AT_WORK = timedelta(seconds=1)
AT_REST = timedelta(seconds=15)
"""Between plans while nothing can be done: each asks Ray for all of its actors."""

FRESH = timedelta(seconds=20)
"""The loop looks every second or two. A look that is older is from before something that keeps it from looking."""

OLD_LOOK = Wait(state="Blind", message="the cluster was not looked at for a while")

CHANGED = Wait(state="Waiting", message="the cluster changed while the plan was made")

ANSWER_WITHIN = timedelta(seconds=8)
"""Clients give up after ten. On a machine that is too busy to plan in time they get the plan before."""

END_AFTER = timedelta(seconds=10)
"""Ray ends on an idle node within two seconds or so; on one with something in its object store it never does."""

POLICY = "nodes"
"""Who decides; those of other packages wish."""

Change = Callable[[CompactionMemory], CompactionMemory]

UNKNOWN = CompactionStatus(state="Blind", message="nothing was seen yet", enabled=False)
NO_SETTINGS = CompactionSettings()


class Compactor:
    """Owns what is remembered of compaction, and is its only writer. `world` is the loop's last look."""

    def __init__(self, ports: CompactionPorts, world: Callable[[], World | None]) -> None:
        """Nothing happens before `load` and `run`."""
        self._ports = ports
        self._world = world
        self._memory = CompactionMemory()
        self._settled: Mapping[str, Settled] = {}
        self._wake = asyncio.Event()
        self._look: Look | None = None
        self._last_word = ""
        self._saving = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._told: datetime | None = None
        self.answered: Callable[[Advice], None] = lambda advice: None
        """Is told of each answer of another package's policy."""
        self.status = UNKNOWN

    async def load(self) -> None:
        """Read back what was begun."""
        self._memory = (await self._ports.store.load()).compaction

    @property
    def draining(self) -> frozenset[str]:
        """Return the nodes that take no new replicas because of us."""
        told = frozenset(drain.node for drain in self._memory.drains if drain.state is not DrainState.ASKED)
        # Ray does not tell of these either, and where no replica is left Serve does not.
        return told | self._memory.closed

    @property
    def freed(self) -> int:
        """Return how many nodes were freed so far."""
        return self._memory.freed

    async def run(self) -> None:
        """Turn until cancelled."""
        while True:
            self._wake.clear()
            is_at_work = await self.turn()
            await self._rest(AT_WORK if is_at_work else AT_REST)

    async def _rest(self, longest: timedelta) -> None:
        """Wait; settling services are noticed meanwhile, and an order ends it."""
        until = self._ports.clock.now() + longest
        while self._ports.clock.now() < until and not self._wake.is_set():
            await self._ports.clock.sleep(AT_WORK)
            self._note()

    def _note(self) -> None:
        world = self._world()
        if world is not None:
            self._settled = settle(world, self._settled)

    async def order(self, by: str) -> int:
        """Carry the plan out once, whatever `enabled` says; return the id of the event. Raises Retry or Stalled."""
        order = Order(by=by, at=self._ports.clock.now())
        text = "the plan is to be carried out"
        event = await self._save(lambda memory: replace(memory, order=order), "CompactionOrdered", text, by=by)
        self._wake.set()
        return event

    async def plan(self) -> CompactionStatus:
        """Return what a plan made now says. Nothing is done. Raises Retry or Stalled."""
        world = self._world()
        if world is None or not world.observed.complete:
            return self.status
        self._note()
        try:
            async with asyncio.timeout(ANSWER_WITHIN.total_seconds()):
                look = await self._planned(world, _settings(world))
        except TimeoutError:
            return self.status
        return self._status(look, self.status.state, self.status.message)

    async def turn(self) -> bool:
        """Take one turn; return whether the next one is to come soon."""
        self._note()
        world = self._world()
        if world is None:
            return True  # The loop is about to look for the first time.
        try:
            wait = await self._step(world, _settings(world)) if self._is_fresh(world) else OLD_LOOK
            # Last: the job takes seconds, in which Serve moves what is on the next node already.
            await self._end_emptied(world)
        except PortError as error:
            log.warning("compaction waits", reason=error.reason)
            wait = Wait(state="Waiting", message=error.reason)
        self.status = self._status(self._look, wait.state, wait.message)
        # What changed while the plan was made is planned for at once, and so is what is seen again.
        return bool(self._memory.drains) or wait in (CHANGED, OLD_LOOK)

    def _is_fresh(self, world: World) -> bool:
        """Return whether the loop's last look is recent enough to act on."""
        return self._ports.clock.now() - world.now <= FRESH

    async def _step(self, world: World, settings: CompactionSettings) -> Wait:
        """Bring on what was begun; begin something if nothing is in the way."""
        await self._forget(world)
        if self._memory.drains:
            now = situation_of(world, settings, self._memory, self._settled, ())
            for step in follow(world, settings, self._memory, now):
                await self._take(step, world)
        await self._tell_again(world)
        while (wait := obstacle(world, settings, self._memory)) is None:
            look = self._look = await self._planned(world, settings)
            if isinstance(look.heard, Wait) and self._memory.order is None:
                return look.heard
            found = COMPACTION[POLICY](world, settings, self._memory, look.situation, (look.answer, look.refused))
            if isinstance(found, Wait):
                return found
            if isinstance(found, BeginDrain) and (changed := self._changed_since(look, found.drain.node)):
                return changed
            begun = len(self._memory.drains)
            await self._take(found, world, look)
            if isinstance(found, BeginDrain) and len(self._memory.drains) <= begun:
                return Wait(state="Waiting", message=self._last_word)
        return wait

    def _changed_since(self, look: Look, node: str) -> Wait | None:
        """Check a node again, by what the loop has seen while the plan was made."""
        world = self._world() or look.world
        settings = _settings(world)
        now = situation_of(world, settings, self._memory, self._settled, look.holdings)
        asked = asks(_settings(look.world))
        if isinstance(look.heard, Prefer):
            now = preferred(now, look.heard, asked)
        may_go = may_still_go(now.problem, look.situation.problem, look.answer, node)
        if now.swinging or asks(settings) != asked or not may_go or not placed_by_serve(now.problem, node):
            return CHANGED
        return obstacle(world, settings, self._memory)

    async def _planned(self, world: World, settings: CompactionSettings) -> Look:
        holdings = await self._ports.drains.holdings()
        situation = situation_of(world, settings, self._memory, self._settled, holdings)
        said = await self._asked(world, settings, situation)
        if isinstance(said, Prefer):
            situation = preferred(situation, said, asks(settings))
        answer = await self._ports.planner.plan(situation.problem)
        nodes = {node.id: node for node in world.observed.nodes}
        refused = {node: await self._ports.provider.refusal(nodes[node]) for node in answer.freed}
        return Look(world=world, situation=situation, answer=answer, refused=refused, holdings=holdings, heard=said)

    async def _asked(self, world: World, settings: CompactionSettings, situation: Situation) -> Prefer | Wait | None:
        """Ask the policy of another package that the ClusterPolicy names, if it names one.

        That may take seconds: what is being emptied was looked at before, and the cluster is looked at again after it.
        """
        policy = asks(settings)
        if not policy:
            return None
        if (unknown := is_unknown(settings, self._ports.advisers.enabled)) is not None:
            return unknown
        advice = Advice(policy=policy, service="", revision="", at=world.now)
        # A person's look at the plan may come in the middle of a turn: one question after the other.
        async with self._asking:
            try:
                answers = await self._ports.advisers.consult(policy, {"": situation}, world)
                advice = read_advice(advice, answers.get(""))
            except PortError as error:
                advice = replace(advice, problem=error.reason)
        self.answered(advice)
        await self._tell_trouble(advice)
        return heard(advice)

    async def _tell_trouble(self, advice: Advice) -> None:
        """Tell of a policy that fails, once in a while."""
        now = self._ports.clock.now()
        if advice.problem and (self._told is None or now - self._told >= TOLD_AGAIN):
            self._told = now
            text = f"policy {advice.policy} fails: {advice.problem}"
            await self._save(lambda memory: memory, "PolicyFailed", text, is_warning=True)

    async def _forget(self, world: World) -> None:
        """Forget what was given up once its time is over, and nodes that are gone; Ray's drains last as the node."""
        if not world.observed.complete:
            return
        alive = {node.id for node in world.observed.nodes if node.is_alive}
        kept = tuple(
            entry
            for entry in self._memory.given_up
            if entry.node in alive and (entry.is_draining or entry.until > world.now)
        )
        emptied = tuple(entry for entry in self._memory.emptied if entry.node in alive)
        if kept != self._memory.given_up or emptied != self._memory.emptied:
            await self._save(lambda memory: replace(memory, given_up=kept, emptied=emptied))

    async def _end_emptied(self, world: World) -> None:
        """Have Ray end on nodes that are free and on which it does not by itself; nothing is on them by now."""
        if not world.observed.complete:
            return
        now = self._ports.clock.now()
        due = [entry for entry in self._memory.emptied if not timedelta(0) <= now - entry.told_at < _rest(entry)]
        # What is in use tells nothing of an actor that asks for nothing, as most do once they run.
        held = {holding.node: holding.what for holding in await self._ports.drains.holdings()} if due else {}
        for entry in due:
            try:
                if entry.node in held:
                    raise Stalled(f"it holds {held[entry.node]}, which is not Heliostat's")
                await self._ports.drains.end(entry.node)
            except PortError as error:
                log.warning("Ray does not end on an empty node", node=entry.ip, reason=error.reason)
            await self._save(partial(_told, node=entry.node, now=now))

    async def _tell_again(self, world: World) -> None:
        """Tell Ray of drains that may not have reached it."""
        for drain in self._memory.drains if world.observed.complete else ():
            if drain.state is DrainState.ASKED:
                await self._drain(drain, world)

    async def _take(self, step: Step, world: World, look: Look | None = None) -> None:
        match step:
            case BeginDrain(drain=drain):
                text = f"{drain.ip} is being emptied: {drain.replicas} replicas move{_wished(look)}"
                begun = partial(_with_drain, drain=drain)
                await self._save(begun, "NodeDrainBegun", text, by=drain.by)
                await self._drain(drain, world)
            case NoteProgress(node=node, replicas=replicas):
                await self._save(_changed(node, replicas=replicas, progress_at=world.now))
            case Release(node=node):
                await self._release(node, world)
            case KeepAfterAll(node=node, why=why):
                drain = self._drain_of(node)
                text = f"{drain.ip} is empty, but not given back: {why}"
                # Ray takes no drain back: on a node that is to be started anew it has to end first, too.
                kept = Emptied(node=node, ip=drain.ip, told_at=self._ports.clock.now())
                await self._save(partial(_empty, entry=kept), "NodeKept", text, is_warning=True)
            case GiveUp(entry=entry):
                text = f"{entry.ip}: {entry.why}"
                await self._save(partial(_given_up, entry=entry), "NodeDrainGivenUp", text, is_warning=True)
            case EndOrder(why=why):
                await self._save(lambda memory: replace(memory, order=None), "CompactionDone", why)
            case _:
                assert_never(step)

    async def _drain(self, drain: NodeDrain, world: World) -> None:
        """Tell Ray. What it refuses is given up; what could not be asked is asked again."""
        try:
            await self._ports.drains.drain(
                drain.node, expected_use(world.observed, drain.node, self._settled), f"Heliostat empties {drain.ip}"
            )
        except Retry as error:
            log.warning("a drain could not be asked for", node=drain.ip, reason=error.reason)
        except Stalled as error:
            entry = not_begun(drain, error.reason, self._ports.clock.now())
            await self._take(GiveUp(entry=entry), world)
        else:
            now = self._ports.clock.now()
            await self._save(_changed(drain.node, state=DrainState.DRAINING, progress_at=now))

    async def _release(self, node: str, world: World) -> None:
        """Give an empty node back. What its provider refuses for good is reported; the node stays drained."""
        drain = self._drain_of(node)
        if drain.state is not DrainState.EMPTY:
            await self._save(_changed(node, state=DrainState.EMPTY, replicas=0, progress_at=world.now))
        try:
            await self._ports.provider.release(drain.ip)
        except Stalled as error:
            entry = given_up(drain, f"it is empty, but not given back: {error.reason}", self._ports.clock.now())
            await self._take(GiveUp(entry=entry), world)
            return
        now = self._ports.clock.now()
        took = now - drain.since
        text = f"{drain.ip} is free after {took.total_seconds():.0f} s"
        await self._save(
            partial(_freed, entry=Emptied(node=node, ip=drain.ip, told_at=now)), "NodeFreed", text, by=drain.by
        )

    def _drain_of(self, node: str) -> NodeDrain:
        found = self._memory.drain(node)
        assert found is not None
        return found

    async def _save(
        self,
        change: Change,
        kind: str = "",
        message: str = "",
        *,
        by: str = "heliostat",
        is_warning: bool = False,
    ) -> int:
        """Save before anything is done about it; return the id of the event, 0 without one.

        A save that fails ends the turn, and the next one decides anew.
        """
        now = self._ports.clock.now()
        told = Event(at=now, service="", kind=kind, message=message, by=by, is_warning=is_warning)
        # An order may come in the middle of a turn: neither may undo what the other saves.
        async with self._saving:
            memory = change(self._memory)
            event = await save_telling(self._ports.store, SaveMemory(compaction=memory), told)
            self._memory = memory
        self._last_word = message
        return event

    def _status(self, look: Look | None, state: str, message: str) -> CompactionStatus:
        return status_of(self._memory, _settings(self._world()), look, state=state, message=message)


def _wished(look: Look | None) -> str:
    """Return who had a say in a plan, and why."""
    if look is None or not isinstance(look.heard, Prefer):
        return ""
    return with_message(f", with the wishes of policy {_settings(look.world).policy}", look.heard.message)


def _with_drain(memory: CompactionMemory, drain: NodeDrain) -> CompactionMemory:
    return replace(memory, drains=(*memory.drains, drain))


def _changed(node: str, **changes: Any) -> Change:
    """Return what changes the drain of a node."""

    def change(memory: CompactionMemory) -> CompactionMemory:
        drains = (replace(drain, **changes) if drain.node == node else drain for drain in memory.drains)
        return replace(memory, drains=tuple(drains))

    return change


def _without(memory: CompactionMemory, node: str) -> CompactionMemory:
    return replace(memory, drains=tuple(drain for drain in memory.drains if drain.node != node))


def _given_up(memory: CompactionMemory, entry: GivenUp) -> CompactionMemory:
    return replace(_without(memory, entry.node), given_up=(*memory.given_up, entry))


def _empty(memory: CompactionMemory, entry: Emptied) -> CompactionMemory:
    return replace(_without(memory, entry.node), emptied=(*memory.emptied, entry))


def _freed(memory: CompactionMemory, entry: Emptied) -> CompactionMemory:
    return replace(_empty(memory, entry), freed=memory.freed + 1)


def _rest(entry: Emptied) -> timedelta:
    """Return how long a node is left alone: each attempt is a job, of which Ray keeps a record and a log."""
    return min(RETRY_AFTER, END_AFTER * 2.0 ** min(entry.tries, 10))


def _told(memory: CompactionMemory, node: str, now: datetime) -> CompactionMemory:
    emptied = (
        replace(entry, told_at=now, tries=entry.tries + 1) if entry.node == node else entry for entry in memory.emptied
    )
    return replace(memory, emptied=tuple(emptied))


def _settings(world: World | None) -> CompactionSettings:
    return world.desired.settings.compaction if world is not None and world.desired is not None else NO_SETTINGS
