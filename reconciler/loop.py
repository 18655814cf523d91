"""The loop: observe, plan, act, report. Everything outside only wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from policies.operator import Refusal, obey
from policies.preemption import left_at
from policies.view import view_of
from reconciler.anchors import Anchors
from reconciler.apply import Results, apply
from reconciler.errands import Errands
from reconciler.errors import PortError
from reconciler.observe import ENDPOINT_INTERVAL, BuildWatch, OwnWrites, endpoints_without, is_direct, observe
from reconciler.patience import Patience
from reconciler.planning.compile import Compiled, compile_effects
from reconciler.planning.moment import Surroundings
from reconciler.planning.outgoing import errand_slots
from reconciler.planning.plan import Plan, make_plan
from reconciler.planning.report import Circumstances, report
from reconciler.planning.report_bounds import in_full
from reconciler.planning.routing import route_table
from reconciler.ports import Clock, Outlook, Ports, Reading, ServeSeen
from reconciler.waking import sleep_until_woken
from specs.commands import Command
from specs.commit_notes import CommitNote
from specs.decisions import Decision
from specs.desired import ClusterSettings, Desired
from specs.effects import PutServeConfig, SetRoutes
from specs.memory import Memory
from specs.observed import CellSeen, Endpoint, Node
from specs.preemption import Preemption
from specs.reasons import Reason
from specs.routes import RouteTable
from specs.status import ClusterStatus
from specs.world import World

log = structlog.get_logger("heliostat")

AT_REST = timedelta(seconds=2)
"""Between looks when nothing is to be done: drift and dead replicas are seen this late."""

MOVING = timedelta(seconds=1)
"""Between looks while something moves: Serve itself takes longer to change anything."""

AT_ONCE = timedelta(milliseconds=100)
"""After decisions that only changed Memory: the next one may be due."""


class CommandRefused(Exception):
    """An operator's command makes no sense now; the text says why."""


class UnknownService(Exception):
    """Nobody knows a service of that name."""


class WrongMode(Exception):
    """Replicas take requests themselves though the gateway was told otherwise, or the other way round."""


MODE_DOUBT = timedelta(seconds=15)
"""A replica's own port may be listed later than its state: only a lasting contradiction counts."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One turn of the loop, for logs, metrics and traces."""

    world: World
    plan: Plan
    compiled: Compiled
    results: Results
    status: ClusterStatus
    timings: Mapping[str, timedelta]
    """How long each phase took: observe, plan, apply, report."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    command: Command
    answer: asyncio.Future[int]


class Reconciler:
    """Owns Memory and is its only writer. `ticked` is told of each turn."""

    def __init__(
        self,
        ports: Ports,
        surroundings: Surroundings,
        *,
        cluster: str = "",
        is_direct: bool = True,
        ticked: Callable[[Tick], None] = lambda tick: None,
    ) -> None:
        """`cluster` is the name shown in status; `is_direct` whether replicas take requests themselves."""
        self._ports = ports
        self._surroundings = surroundings
        self._cluster = cluster
        self._is_direct = is_direct
        self._ticked = ticked
        self._memory = Memory()
        self._reading = Reading(desired=None, read_at=None)
        self._requests: list[_Request] = []
        self._wake = asyncio.Event()
        self.errands = Errands(ports, self.wake)
        self._anchors = Anchors(ports)
        self._told: frozenset[CommitNote] = frozenset()
        self._builds = BuildWatch()
        self._writes = OwnWrites()
        self._patience = Patience()
        self._settings: ClusterSettings | None = None
        self.status: ClusterStatus | None = None
        self._reported: World | None = None
        self._recall: dict[str, Any] = {}
        self.notices: Callable[[], Mapping[str, Preemption]] = dict
        """The notices of nodes that are about to go, by node: known before a turn has seen any node."""
        self.nodes: tuple[Node, ...] = ()
        self.cells: tuple[CellSeen, ...] = ()
        self.table = RouteTable()
        self._routed: RouteTable | None = None

    async def load(self) -> None:
        """Read Memory back and hand the gateway the table it stands for."""
        self._memory = await self._ports.store.load()
        self.table = route_table(self._memory)

    async def run(self) -> None:
        """Turn until cancelled. A bug ends the process; its supervisor starts it again, and nothing is lost."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_source())
            group.create_task(self._refresh_endpoints())
            group.create_task(self.errands.run())
            group.create_task(self._turn())

    def wake(self) -> None:
        """Look again now."""
        self._wake.set()

    async def command(self, command: Command) -> int:
        """Carry a command out in the next turn; return the id of its event.

        Raises UnknownService, or CommandRefused with the reason.
        """
        if command.service not in self._memory.services:
            raise UnknownService(command.service)
        request = _Request(command=command, answer=asyncio.get_running_loop().create_future())
        self._requests.append(request)
        self.wake()
        return await request.answer

    async def _watch_source(self) -> None:
        outlook = Outlook()
        while True:
            outlook = await self._ports.source.changed(outlook)
            self.wake()

    async def _refresh_endpoints(self) -> None:
        """Tell the gateway where replicas are, on its own clock: a slow turn must not make traffic stale."""
        doubted_since: datetime | None = None
        while True:
            try:
                seen = await self._ports.serve.read()
                doubted_since = self._doubt(seen, doubted_since)
                await self._ports.gateway.refresh(await self.endpoints(seen), complete=True)
            except PortError as error:
                log.debug("endpoints not refreshed", reason=error.reason)
            await self._ports.clock.sleep(ENDPOINT_INTERVAL)

    async def endpoints(self, seen: ServeSeen) -> Mapping[str, tuple[Endpoint, ...]]:
        """Return where each application's requests can be sent, those marked whose nodes are about to go.

        Raises Retry when the gateway cannot be asked.
        """
        left = left_at(self.notices().values(), self._ports.clock.now())
        return await endpoints_without(left, seen, self._memory, self._ports.gateway, is_direct=self._is_direct)

    def _doubt(self, seen: ServeSeen, since: datetime | None) -> datetime | None:
        """Return since when the cluster contradicts the mode we run in. Raises WrongMode when it lasts."""
        if is_direct(seen) in (None, self._is_direct):
            return None
        now = self._ports.clock.now()
        if since is not None and now - since >= MODE_DOUBT:
            raise WrongMode
        return since or now

    async def _turn(self) -> None:
        while True:
            self._wake.clear()
            tick = await self.tick()
            await sleep_until_woken(self._ports.clock, _interval(tick), self._wake)

    async def tick(self) -> Tick:
        """Take one turn: read, plan, act, report."""
        watch = _Stopwatch(self._ports.clock)
        await self._read_source()
        seen = await observe(self._ports, self._reading, self._memory, self.errands.seen())
        news = tuple(note for note in seen.notes if note not in self._told)
        world = replace(self._writes.note(self._builds.note(seen)), news=news)
        watch.lap("observe")
        requests, self._requests = self._requests, []
        orders, accepted = self._orders(world, requests)
        plan = make_plan(replace(world, recall=self._recall), self._surroundings, orders)
        compiled = compile_effects(plan, self._memory, self._routed)
        watch.lap("plan")
        deployed = frozenset(cell.name for cell in world.observed.cells)
        results = await apply(self._ports, compiled.effects, deployed, self.errands, self._patience)
        self._take(compiled, results)
        await self._answer(accepted, results)
        watch.lap("apply")
        self.nodes = world.observed.nodes or self.nodes
        self.cells = world.observed.cells if world.observed.complete else self.cells
        self._reported = replace(plan.world, memory=self._memory)
        self.status = report(plan, self._memory, self._circumstances(compiled, results), self.status)
        watch.lap("report")
        tick = Tick(world=world, plan=plan, compiled=compiled, results=results, status=self.status, timings=watch.laps)
        self._ticked(tick)
        return tick

    def status_in_full(self, service: str | None = None) -> ClusterStatus | None:
        """Return the last turn's status with what only a reader needs, of one service or of all."""
        if self.status is None or self._reported is None:
            return None
        return in_full(self.status, self._reported, service)

    def _take(self, compiled: Compiled, results: Results) -> None:
        """Go on from what was saved, and from the table that the gateway took."""
        if results.is_saved:
            self._memory = compiled.memory
            self._told = frozenset(self._reading.notes)
            self.errands.keep(errand_slots(self._memory))
            self.table = route_table(self._memory)
        self._recall = {name: view for name, view in self._recall.items() if name in self._memory.services}
        self._writes.took(results.done)
        tables = [effect.table for effect in results.done if isinstance(effect, SetRoutes)]
        self._routed = tables[-1] if tables else self._routed

    async def _read_source(self) -> None:
        """Read Git: cheap while nothing changed, and it says how old the answer is."""
        try:
            self._reading = await self._ports.source.read()
        except PortError as error:
            self._reading = replace(self._reading, problem=error.reason)
        if self._reading.desired is not None:
            desired = await self._anchors.hold(self._reading.desired, self._memory)
            self._reading = replace(self._reading, desired=desired)
            self._hold_policy(desired)

    def _hold_policy(self, desired: Desired) -> None:
        """A wrong file changes no settings either: the last known ClusterPolicy stays in force."""
        if desired.is_policy_known:
            self._settings = desired.settings
        elif self._settings is not None:
            self._reading = replace(self._reading, desired=replace(desired, settings=self._settings))

    def _orders(self, world: World, requests: list[_Request]) -> tuple[dict[str, tuple[Decision, ...]], list[_Request]]:
        """Turn commands into decisions; those that are refused get their answer here."""
        orders: dict[str, tuple[Decision, ...]] = {}
        accepted: list[_Request] = []
        for request in requests:
            name = request.command.service
            if request.answer.done():
                continue  # Who asked has hung up.
            if name in orders:
                self._requests.append(request)
                self.wake()
                continue
            if name not in world.memory.services:
                request.answer.set_exception(UnknownService(name))
                continue
            outcome = obey(view_of(world, name), request.command)
            if isinstance(outcome, Refusal):
                request.answer.set_exception(CommandRefused(outcome.message))
            else:
                orders[name] = outcome
                accepted.append(request)
        return orders, accepted

    async def _answer(self, accepted: list[_Request], results: Results) -> None:
        for request in accepted:
            if request.answer.done():
                continue
            if not results.is_saved:
                request.answer.set_exception(CommandRefused(results.problems[""][1]))
                continue
            request.answer.set_result(await self._newest_event(request.command.service))

    async def _newest_event(self, service: str) -> int:
        """Return the id of the event that a command made; 0 when it cannot be read: the command was saved."""
        try:
            newest = await self._ports.store.events(service=service, limit=1)
        except PortError:
            return 0
        return newest[-1].id if newest else 0

    def _circumstances(self, compiled: Compiled, results: Results) -> Circumstances:
        problems = dict(results.problems)
        for name, text in compiled.invalid.items():
            problems[name] = (Reason.INVALID_DOCUMENT, f"Serve would refuse it: {text}")
        if compiled.waiting:
            for name in _waiting_for_serve(compiled.memory):
                problems.setdefault(name, (Reason.SERVE_BUSY, compiled.waiting))
        return Circumstances(cluster=self._cluster, is_leader=True, read_at=self._reading.read_at, problems=problems)


class _Stopwatch:
    """Times the phases of a turn, one after the other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.now()
        self.laps: dict[str, timedelta] = {}

    def lap(self, phase: str) -> None:
        """End a phase."""
        now = self._clock.now()
        self.laps[phase], self._since = now - self._since, now


def _waiting_for_serve(memory: Memory) -> tuple[str, ...]:
    """Return the services whose candidate is not in Serve's document yet."""
    return tuple(
        name
        for name, service in sorted(memory.services.items())
        if any(not cell.targets and not cell.seen for cell in service.cells_of(service.candidate))
    )


def _interval(tick: Tick) -> timedelta:
    """Return how long to wait before the next turn."""
    if not tick.plan.is_quiet:
        waits = bool(tick.results.problems) or any(isinstance(done, PutServeConfig) for done in tick.results.done)
        return MOVING if waits or not tick.results.done else AT_ONCE
    moving = any(service.is_moving for service in tick.compiled.memory.services.values())
    return MOVING if moving or not tick.world.observed.complete else AT_REST
