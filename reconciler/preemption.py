"""Notices of nodes that are about to go, beside the loop: remembered first, then told to Ray, whose Serve replaces.

What the loop makes of them it sees on the nodes: they take nothing new, and are left before they go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from reconciler.errors import PortError, Retry, Stalled
from reconciler.ports import Clock, Drains, Store
from reconciler.telling import save_telling
from reconciler.waking import sleep_until_woken
from specs.effects import SaveMemory
from specs.memory import Event
from specs.observed import Node
from specs.preemption import Preemption, PreemptionMemory
from specs.world import World

log = structlog.get_logger("heliostat")

TURN = timedelta(seconds=1)
"""Notices are short: Ray is told of one as soon as it can be."""

TOLD_AT_ONCE = 16
"""Each is a program on Ray's head: a whole zone's notices, all at once, could take its memory."""

LONGEST = timedelta(days=7)
"""Clouds say it minutes before. A deadline in a year that no calendar has may not end the daemon."""


class UnknownNodeError(Exception):
    """No living node has this id or address; the text is what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a notice came to: `event` is the id of its event, 0 when nothing new was said."""

    notice: Preemption
    event: int


class Preemptions:
    """Owns what is remembered of notices, and is its only writer. `world` is the loop's last look."""

    def __init__(self, clock: Clock, store: Store, drains: Drains, world: Callable[[], World | None]) -> None:
        """Nothing happens before `load` and `run`."""
        self._clock = clock
        self._store = store
        self._drains = drains
        self._world = world
        self._memory = PreemptionMemory()
        self._saving = asyncio.Lock()
        self._wake = asyncio.Event()
        self._telling: set[str] = set()
        self._slots = asyncio.Semaphore(TOLD_AT_ONCE)
        self.woken: Callable[[], None] = lambda: None
        """Told of each new notice, so that the loop looks at once."""
        self.count: Callable[[], None] = lambda: None
        """Told of each new notice, for metrics."""

    async def load(self) -> None:
        """Read back what was told: deadlines do not wait for a daemon."""
        self._memory = (await self._store.load()).preemption

    @property
    def notices(self) -> Mapping[str, Preemption]:
        """Return the notice of each node that has one."""
        return {notice.node: notice for notice in self._memory.notices}

    async def note(self, node: str, deadline: datetime, by: str, why: str = "") -> Heard:
        """Take a notice of a node, by its id or address; the same one again changes nothing.

        An earlier deadline takes the place of a later one, never the other way round: a cloud that takes its word back
        does not exist, a watcher that repeats itself does. A deadline is by the clocks of others, which our time only
        follows slowly: what counts is how far it is away when it is heard. Raises UnknownNodeError, Retry, or Stalled
        for a node that cannot be drained.
        """
        found = self._living(node)
        async with self._saving:
            known = self._memory.of(found.id)
            if known is not None and known.as_told <= deadline:
                return Heard(notice=known, event=0)
            now = self._clock.now()
            left = min(max(timedelta(0), deadline - self._clock.wall()), LONGEST)
            notice = Preemption(
                node=found.id,
                ip=found.ip,
                noticed_at=known.noticed_at if known else now,
                announced=deadline,
                deadline=now + left,
                by=by,
                why=why,
                is_told=known is not None and known.is_told,
            )
            text = f"{found.ip} goes in {left.total_seconds():.0f} s{': ' + why if why else ''}"
            event = await self._save(self._with(notice), "PreemptionNoted", text, by=by)
        self.count()
        self._wake.set()
        self.woken()
        return Heard(notice=notice, event=event)

    def _living(self, wanted: str) -> Node:
        """Return the node that is meant. Nobody's guess: what is drained by mistake is not undrained."""
        world = self._world()
        if world is None or not world.observed.nodes:
            raise Retry("the cluster's nodes were not seen yet")
        alive = [node for node in world.observed.nodes if node.is_alive]
        found = [node for node in alive if node.id == wanted] or [node for node in alive if node.ip == wanted]
        if not found:
            raise UnknownNodeError(wanted)
        if len(found) > 1:
            raise Stalled(f"{len(found)} nodes have the address {wanted}: name the one that goes by its Ray id")
        if found[0].is_head:
            raise Stalled(f"{wanted} is the cluster's head: it cannot be drained, for the whole cluster goes with it")
        return found[0]

    async def run(self) -> None:
        """Turn until cancelled."""
        async with asyncio.TaskGroup() as telling:
            while True:
                self._wake.clear()
                await self.turn(telling)
                is_told = all(notice.is_told for notice in self._memory.notices)
                # For a notice, or for some node to be gone.
                await sleep_until_woken(self._clock, 10 * TURN if is_told else TURN, self._wake)

    async def turn(self, telling: asyncio.TaskGroup) -> None:
        """Begin to tell Ray what it does not know yet, and forget nodes that are gone.

        Each notice is told by itself: one that fails, or takes its time, may not cost another node's time.
        """
        for notice in self._memory.notices:
            if not notice.is_told and notice.node not in self._telling:
                self._telling.add(notice.node)
                telling.create_task(self._tell(notice))
        try:
            await self._forget()
        except PortError as error:
            log.warning("nodes that are gone are not forgotten yet", reason=error.reason)

    async def _tell(self, notice: Preemption) -> None:
        try:
            async with self._slots:
                await self._drain(notice)
        except PortError as error:
            log.warning("a preemption notice waits", node=notice.ip, reason=error.reason)
        finally:
            self._telling.discard(notice.node)

    async def _drain(self, notice: Preemption) -> None:
        """Drain the node without a deadline of Ray's; the gateway keeps it instead.

        Serve would stop what is there as soon as `maxRequestDuration` does not fit before the deadline, which is
        before the replacements run.
        """
        try:
            await self._drains.drain(notice.node, None, f"Heliostat: {notice.ip} is about to be taken away")
        except Stalled as error:
            text = f"{notice.ip} is not drained, its replicas are lost with it: {error.reason}"
            await self._change(replace(notice, is_told=True), "PreemptionNotDrained", text)
        else:
            await self._change(replace(notice, is_told=True))

    async def _change(self, notice: Preemption, kind: str = "", text: str = "") -> None:
        async with self._saving:
            known = self._memory.of(notice.node)
            if known is not None:
                await self._save(self._with(replace(known, is_told=notice.is_told)), kind, text, is_warning=bool(kind))

    async def _forget(self) -> None:
        """Forget nodes that are gone. Those that stayed in spite of their notice stay drained as long as they live."""
        world = self._world()
        if world is None or not world.observed.complete:
            return
        alive = {node.id for node in world.observed.nodes if node.is_alive}
        async with self._saving:
            for notice in [one for one in self._memory.notices if one.node not in alive]:
                kept = tuple(one for one in self._memory.notices if one.node != notice.node)
                await self._save(PreemptionMemory(notices=kept), "PreemptedNodeGone", f"{notice.ip} is gone")

    def _with(self, notice: Preemption) -> PreemptionMemory:
        others = (one for one in self._memory.notices if one.node != notice.node)
        return PreemptionMemory(notices=tuple(sorted((*others, notice), key=lambda one: one.node)))

    async def _save(
        self, memory: PreemptionMemory, kind: str, message: str, *, by: str = "heliostat", is_warning: bool = False
    ) -> int:
        """Save before anything is done about it; return the id of the event, 0 without one."""
        told = Event(at=self._clock.now(), service="", kind=kind, message=message, by=by, is_warning=is_warning)
        event = await save_telling(self._store, SaveMemory(preemption=memory), told)
        self._memory = memory
        return event
