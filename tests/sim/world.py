"""The real daemon on a simulated Ray, gateway, Git and disk, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from policies.layout import unplaced
from policies.rollout import layout_now
from policies.view import view_of
from reconciler.errors import PortError, Retry
from reconciler.loop import CommandRefused, Reconciler, Tick, UnknownService
from reconciler.observe import endpoints_of
from reconciler.planning.moment import Surroundings
from reconciler.ports import Ports
from specs.commands import Command, Verb
from specs.desired import ClusterSettings, DesiredService, SpecError
from specs.memory import Event, ServiceMemory
from specs.observed import Endpoint
from specs.preemption import Preemption
from specs.status import ServiceStatus
from tests.builders import GATEWAY_URL
from tests.sim.codebook import CodeBook
from tests.sim.fake_advisers import FakeAdvisers
from tests.sim.fake_clock import DaemonClock, FakeClock, settle
from tests.sim.fake_gates import FakeGates
from tests.sim.fake_gateway import FakeGateway
from tests.sim.fake_jobs import FakeJobs
from tests.sim.fake_metrics import FakeMetrics
from tests.sim.fake_nodes import FakeNodes, FakePackages
from tests.sim.fake_serve import FakeServe
from tests.sim.fake_source import FakeSource
from tests.sim.fake_store import Crashed, FakeStore
from tests.sim.invariants import Watch
from tests.sim.serve_model import Timing
from tests.sim.signals import Signals
from tests.sim.watched_ports import CrashPoint, WatchedGateway, WatchedPackages, WatchedServe, WatchedStore

STEP = timedelta(seconds=1)


@dataclass(kw_only=True)
class Simulation:
    """Everything that outlives the daemon, and the daemon itself (None while it is dead)."""

    seed: int = 0
    timing: Timing = field(default_factory=Timing)
    cpus: float = 100.0
    is_direct: bool = True
    """Whether replicas take requests themselves; else Serve's own proxies do."""
    downtime: int = 0
    """How many seconds a daemon that crashed stays away."""

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.skew = timedelta(0)
        """How far the machine's wall clock is from the true time."""
        self._daemon_clock: DaemonClock | None = None
        self.nodes = FakeNodes.in_zones("a", "b", "c", cpus=self.cpus)
        self.book = CodeBook()
        self.serve = FakeServe(self.clock, nodes=self.nodes, book=self.book, timing=self.timing, seed=self.seed)
        self.serve.instance.direct_ingress = self.is_direct
        self.gateway = FakeGateway(self.clock, healthy=self._is_up, is_direct=self.is_direct)
        self.source = FakeSource(self.clock)
        self.store = FakeStore()
        self.packages = FakePackages(clock=self.clock)
        self.gates = FakeGates(self.clock)
        self.metrics = FakeMetrics()
        self.advisers = FakeAdvisers()
        self.jobs = FakeJobs(self.clock)
        self.crash = CrashPoint()
        self.watch = Watch(self)
        self.signals = Signals(self)
        self.gates.watch = self.watch.before_question
        self._errands: set[asyncio.Task[None]] = set()
        self.daemon: Reconciler | None = None
        self.tick: Tick | None = None
        self.notices: Callable[[], Mapping[str, Preemption]] = dict
        """What whoever keeps notices of nodes tells the daemon, by node."""
        self.crashes = 0
        self._away = 0
        self.happenings: dict[datetime, list[Callable[[], None]]] = {}
        """What happens of itself, by its time."""

    # -- the world moves -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the daemon, as its supervisor does."""
        before = self._daemon_clock
        self._daemon_clock = DaemonClock(self.clock, lambda: self.skew, offset=before.offset if before else None)
        if (await self.store.load()).is_at_rest:
            self._daemon_clock.catch_up()
        ports = Ports(
            clock=self._daemon_clock,
            source=self.source,
            serve=WatchedServe(self.serve, self.watch, self.crash),
            nodes=self.nodes,
            packages=WatchedPackages(self.packages, self.watch, self.crash),
            gateway=WatchedGateway(self.gateway, self.watch, self.crash),
            store=WatchedStore(self.store, self.watch, self.crash),
            gates=self.gates,
            metrics=self.metrics,
            advisers=self.advisers,
            jobs=self.jobs,
        )
        daemon = Reconciler(ports, Surroundings(gateway_url=GATEWAY_URL), cluster="sim", is_direct=self.is_direct)
        daemon.notices = self._told
        await daemon.load()
        self.daemon = daemon

    def _told(self) -> Mapping[str, Preemption]:
        return self.notices()

    def later(self, seconds: int, happening: Callable[[], None]) -> None:
        """Let something happen so many seconds from now."""
        self.happenings.setdefault(self.clock.now() + timedelta(seconds=seconds), []).append(happening)

    def clock_jumps(self, by: timedelta) -> None:
        """Somebody sets the machine's clock."""
        self.skew += by

    def forget_time(self) -> None:
        """The machine is started anew: its counter says nothing any more."""
        self._daemon_clock = None

    def kill(self) -> None:
        """Kill the daemon; everything else goes on."""
        self.daemon = None
        for errand in self._errands:
            errand.cancel()

    async def step(self, *, restart: bool = True) -> None:
        """Let a second pass and the daemon take a turn; a crashed one is started again in the next step."""
        self.clock.jump(STEP)
        for happening in self.happenings.pop(self.clock.now(), ()):
            happening()
        self.serve.step()
        self.gates.step()
        await self._refresh()
        self.watch.before_tick()
        self.signals.step()
        self._away = max(0, self._away - 1)
        if self.daemon is None and restart and not self._away:
            await self.start()
        if self.daemon is not None:
            await self._take_turn(self.daemon)

    async def run(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            await self.step()

    async def until(self, condition: Callable[[], bool], *, within: float = 900, what: str = "") -> None:
        """Step until `condition` holds. Raises AssertionError after `within` virtual seconds."""
        for _ in range(int(within)):
            if condition():
                return
            await self.step()
        assert condition(), f"not within {within:g} s: {what or 'the condition'}\n{self.describe()}"

    async def _take_turn(self, daemon: Reconciler) -> None:
        self.watch.is_blind = False
        try:
            self.tick = await daemon.tick()
        except Crashed:
            self.kill()
            self.crashes += 1
            self._away = self.downtime + 1
            return
        self.watch.after_tick()
        await self._run_errands(daemon)

    async def _run_errands(self, daemon: Reconciler) -> None:
        """Calls to others run beside the daemon's turns, and end when it dies."""
        self._errands = {errand for errand in self._errands if not errand.done()}
        self._errands |= {asyncio.create_task(errand()) for errand in daemon.errands.take()}
        if self._errands:
            await settle()
        for errand in self._errands:
            if errand.done() and not errand.cancelled():
                errand.result()

    @property
    def is_hindered(self) -> bool:
        """Return whether the daemon could not move a weight at its last turn: dead, blind, or without a disk."""
        return self.daemon is None or self.watch.is_blind or bool(self.store.full)

    async def _refresh(self) -> None:
        """The gateway's endpoints are kept fresh by a task of its own, also while turns are slow."""
        try:
            seen = await self.serve.read()
            known = endpoints_of(seen, is_direct=self.is_direct)
            told = await self.daemon.endpoints(seen) if self.daemon else known
            await self.gateway.refresh(told, complete=True)
        except PortError:
            return

    def _is_up(self, cell: str, endpoint: Endpoint) -> bool:
        found = self.serve.instance.applications.get(cell)
        if found is None:
            return False
        return any(r.id == endpoint.replica and r.is_serving for d in found.all_deployments for r in d.replicas)

    # -- what people do --------------------------------------------------------------------------------

    def push(
        self, *services: DesiredService, errors: tuple[SpecError, ...] = (), settings: ClusterSettings | None = None
    ) -> None:
        """Commit exactly these services."""
        self.watch.pushed(services)
        self.source.push(*services, errors=errors, settings=settings)
        self._stir()

    def git_fails(self) -> None:
        self.source.fail()
        self._stir()

    def git_mends(self) -> None:
        self.source.mend()
        self._stir()

    def _stir(self) -> None:
        if self.daemon is not None:
            self.daemon.wake()

    async def order(self, verb: str, name: str = "chat", **options: Any) -> str:
        """Give a command; return "" when it was carried out, else why not."""
        if self.daemon is None:
            return "the daemon is down"
        answer = asyncio.ensure_future(self.daemon.command(Command(verb=Verb(verb), service=name, by="ada", **options)))
        await asyncio.sleep(0)
        await self.step(restart=False)
        await asyncio.sleep(0)
        if not answer.done():
            answer.cancel()
            return "the daemon died"
        try:
            await answer
        except (CommandRefused, UnknownService) as refusal:
            return str(refusal)
        return ""

    # -- accidents -------------------------------------------------------------------------------------

    def ray_fails(self) -> None:
        self.serve.outage = "Ray does not answer"

    def ray_mends(self) -> None:
        self.serve.outage = ""

    def gateway_fails(self) -> None:
        self.gateway.problem = Retry("HAProxy does not answer")

    def gateway_mends(self) -> None:
        self.gateway.problem = None

    def lose_head(self) -> None:
        self.watch.excused()
        self.serve.lose_head()
        self.packages.lose()

    def somebody_removes_ours(self) -> None:
        """Another writer PUTs a document without our applications."""
        self.watch.excused()
        foreign = [dict(config) for name, config in self.serve.configs().items() if name not in self.watch.created]
        self.serve.put_by_somebody_else(foreign)

    def somebody_scales(self, service: str, count: int) -> None:
        """Another writer sets the counts of a service's applications where Serve lets it."""
        self.watch.excused()
        for key, found in self.watch.applications(service):
            for name in found.deployments if found.external_scaler and not found.is_deleting else ():
                self.serve.instance.scale(key.name, name, count)

    # -- what is seen ----------------------------------------------------------------------------------

    def memory(self, name: str = "chat") -> ServiceMemory:
        return self.store._services[name]

    def known(self, name: str = "chat") -> ServiceMemory | None:
        return self.store._services.get(name)

    def status(self, name: str = "chat") -> ServiceStatus:
        assert self.daemon is not None
        assert self.daemon.status is not None
        return next(service for service in self.daemon.status.services if service.name == name)

    def weights(self, name: str = "chat") -> dict[str, float]:
        """Return the percentages per revision as routed."""
        return {version: weight / 100 for version, weight in self.watch.weights(name).items() if weight}

    def counts(self, name: str = "chat", deployment: str = "Echo") -> dict[str, int]:
        """Return Serve's targets per revision, summed over its cells."""
        counts: dict[str, int] = {}
        for key, found in self.watch.applications(name):
            if deployment in found.deployments and not found.is_deleting:
                counts[key.revision] = counts.get(key.revision, 0) + found.deployments[deployment].target
        return counts

    def events(self, name: str = "chat") -> list[Event]:
        return [event for event in self.watch.events if event.service == name]

    def is_settled(self, name: str = "chat") -> bool:
        """Return whether a service has nothing left to do."""
        memory = self.known(name)
        if memory is None:
            return True
        only = {cell.key.revision for cell in memory.cells} <= {memory.stable}
        idle = not memory.is_moving and not memory.is_removed and only
        idle = idle and self.tick is not None and not self.tick.compiled.effects and self._is_still(name)
        return idle and self._is_in_place(name)

    def _is_in_place(self, name: str) -> bool:
        """Return whether no replica waits to move to another cell: that may take as long as a drain."""
        assert self.tick is not None
        view = view_of(self.tick.plan.world, name)
        return len(view.cells) == 1 or not unplaced(view, layout_now(view))

    def _is_tidying(self, name: str) -> bool:
        """Return whether cells that serve nobody any more are still to be forgotten, as soon as Serve shows none."""
        memory = self.known(name)
        return memory is not None and any(cell.is_retired for cell in memory.cells)

    def _is_still(self, name: str) -> bool:
        """Return whether nothing is being built, and every replica that is wanted runs."""
        found = [app for _, app in self.watch.applications(name)]
        wanted = (dep for app in found for dep in app.deployments.values())
        running = all(sum(1 for r in dep.replicas if r.state == "RUNNING") == dep.target for dep in wanted)
        return running and not any(app.is_building for app in found)

    async def settle(self, *names: str, within: float = 1200) -> None:
        """Step until nothing moves, then see that nothing goes on moving (planning again yields only Holds)."""
        await self.run(3)  # A push is seen, and what follows from it begun.
        names = names or tuple(sorted(self.store._services))
        await self.until(
            lambda: all(self.is_settled(name) and not self._is_tidying(name) for name in names),
            within=within,
            what=f"{names} settled",
        )
        await self.run(3)
        if self.daemon is None:  # It died of its last effect: what it does when it is back is no unrest.
            await self.until(lambda: self.daemon is not None, within=within, what="the daemon is back")
            await self.run(3)
        done = self.watch.effects
        await self.run(20)
        assert self.watch.effects == done, f"goes on acting: {self.watch.log[-5:]}\n{self.describe()}"

    def describe(self) -> str:
        """Return what a person needs to see when a test fails."""
        lines = [f"at {self.clock.now():%H:%M:%S}, crash {self.crash}, log:"]
        lines += self.watch.log[-25:]
        for name, memory in sorted(self.store._services.items()):
            lines.append(
                f"{name}: wants {memory.wanted.revision.id}, stable {memory.stable}, candidate {memory.candidate},"
                f" outgoing {[(out.revision, str(out.cause)) for out in memory.outgoing]},"
                f" quarantine {[entry.revision for entry in memory.quarantine]},"
                f" weights {self.weights(name)}, counts {self.counts(name)}"
            )
            for key, found in self.watch.applications(name):
                states = [(d.name, d.target, [r.state for r in d.replicas]) for d in found.all_deployments]
                lines.append(f"  {key.name} {found.status} {states}")
        if self.daemon is not None and self.daemon.status is not None:
            lines += [f"{s.name}: {s.phase} {s.reason}: {s.message[:200]}" for s in self.daemon.status.services]
        return "\n".join(lines)
