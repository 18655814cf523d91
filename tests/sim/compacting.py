"""Compaction in the simulation: the real compactor beside the simulated daemon, on Ray's rules of draining."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from policies.compaction.planner import plan
from policies.compaction.problem import Answer, Problem
from reconciler.compaction import Compactor
from reconciler.errors import PortError, Stalled
from reconciler.ports import CompactionPorts
from specs.compaction import CompactionSettings, Holding
from specs.desired import ClusterSettings, DesiredService
from specs.observed import Node
from specs.world import World
from tests.builders import service, steps
from tests.sim.codebook import Behaviour
from tests.sim.fake_nodes import FakeNodes, make_node
from tests.sim.fake_store import Crashed
from tests.sim.world import Simulation

SETTINGS = CompactionSettings(enabled=True, settle=timedelta(seconds=10), stall_after=timedelta(seconds=60))

NODE_START = 20
"""Seconds for which replicas wait until a node is there for them, where nodes are started."""


@dataclass(kw_only=True)
class FakeDrains:
    """`ports.Drains`. A node that drains and is empty ends, as a raylet does."""

    nodes: FakeNodes
    foreign: tuple[Holding, ...] = ()
    problem: PortError | None = None
    refused: str = ""
    asked: list[str] = field(default_factory=list)
    sticky: set[str] = field(default_factory=set)
    """Nodes with something in their object store: their raylet does not end by itself, and no list shows that they
    drain once they are empty."""
    ended: list[str] = field(default_factory=list)
    """Nodes on which Ray was made to end, in vain where it never does."""
    never_ends: bool = False

    async def holdings(self) -> tuple[Holding, ...]:
        if self.problem is not None:
            raise self.problem
        return tuple(held for held in self.foreign if self._is_alive(held.node))

    async def drain(self, node: str, expected: Mapping[str, float] | None, why: str) -> None:
        if self.problem is not None:
            raise self.problem
        if self.refused:
            raise Stalled(self.refused)
        if expected is not None and not self._is_alive(node):
            raise Stalled("Ray does not tell what is in use on the node")
        if expected is not None and (surplus := self._surplus(node, expected)):
            raise Stalled(f"something that is not Heliostat's uses {surplus} of it")
        self.asked.append(node)
        if self._is_alive(node):
            self.nodes.drain(node)

    async def end(self, node: str) -> None:
        if self.problem is not None:
            raise self.problem
        self.ended.append(node)
        if self.never_ends or not self._is_alive(node) or self._surplus(node, {}):
            raise Stalled("something is in use on it")
        self.nodes.kill(node)

    def end_what_is_empty(self, taken: Collection[str] = ()) -> None:
        """Play raylets: those that drain end, but where Serve has replicas (`taken`) or somebody else something."""
        for node in list(self.nodes.nodes.values()):
            is_held = node.id in taken or node.id in self.sticky or self._surplus(node.id, {})
            if node.is_alive and node.is_draining and not is_held:
                self.nodes.kill(node.id)

    def _is_alive(self, node: str) -> bool:
        return node in self.nodes.nodes and self.nodes.nodes[node].is_alive

    def _surplus(self, node: str, expected: Mapping[str, float]) -> dict[str, float]:
        """Return what others hold of a node beyond what is expected. What Serve's replicas take is always expected."""
        used: dict[str, float] = {}
        for held in self.foreign:
            for name, amount in held.resources.items() if held.node == node else ():
                used[name] = used.get(name, 0.0) + amount
        surplus = {name: amount - expected.get(name, 0.0) for name, amount in used.items()}
        return {name: amount for name, amount in surplus.items() if amount > 0}


@dataclass(kw_only=True)
class FakeProvider:
    """`ports.NodeProvider`."""

    problem: PortError | None = None
    never: Mapping[str, str] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)

    async def refusal(self, node: Node) -> str:
        if self.problem is not None:
            raise self.problem
        return self.never.get(node.ip, "")

    async def release(self, ip: str) -> None:
        if self.problem is not None:
            raise self.problem
        if ip in self.released:
            return
        if why := self.never.get(ip):
            raise Stalled(why)
        self.released.append(ip)


class InlinePlanner:
    """`ports.Planner` without a process."""

    def __init__(self) -> None:
        self._known: tuple[Problem, Answer] | None = None

    async def plan(self, problem: Problem) -> Answer:
        if self._known is None or self._known[0] != problem:
            self._known = (problem, plan(problem, 1))
        return self._known[1]


class Compacting:
    """A simulation with nodes of so many CPUs, and a compactor that takes a turn each second.

    With `grows` a node is started for replicas that wait for room, as an autoscaler of nodes does; without it what
    compaction gave back is gone.
    """

    def __init__(
        self, *cpus: float, settings: CompactionSettings = SETTINGS, seed: int = 0, grows: bool = False
    ) -> None:
        self.sim = Simulation(seed=seed)
        made = (make_node(number, "abc"[number % 3], cpus=each) for number, each in enumerate(cpus, start=1))
        self.sim.nodes.nodes = {node.id: node for node in made}
        self.sim.book.default = Behaviour(cpus=1.0)
        self.settings = settings
        self.drains = FakeDrains(nodes=self.sim.nodes)
        self.provider = FakeProvider()
        self.planner = InlinePlanner()
        self.compactor: Compactor | None = None
        self.least: dict[str, int] = {}
        """The fewest replicas of each service that served at once since `watch_from_now`."""
        self.most_draining = 0
        self.crashes = 0
        self.grows = grows
        self._waited = 0

    async def start(self, *services: DesiredService) -> None:
        """Deploy services; they settle before compaction begins to look."""
        await self.sim.start()
        self.push(*services)
        await self.sim.settle()
        self.watch_from_now()

    def push(self, *services: DesiredService, settings: CompactionSettings | None = None) -> None:
        self.settings = settings or self.settings
        self.sim.push(*services, settings=ClusterSettings(compaction=self.settings))

    def watch_from_now(self) -> None:
        self.least = {}

    def shrink(self, name: str, node_counts: Mapping[str, int]) -> None:
        """Leave a service with so many replicas per node: what months of changes do."""
        for _, found in self.sim.watch.applications(name):
            for deployment in found.all_deployments:
                left = dict(node_counts)
                for replica in list(deployment.replicas):
                    if replica.node is not None and left.get(replica.node, 0) > 0:
                        left[replica.node] -= 1
                    else:
                        deployment.replicas.remove(replica)
                deployment.target = len(deployment.replicas)

    @property
    def world(self) -> World | None:
        tick = self.sim.tick
        if tick is None:
            return None
        observed = tick.world.observed
        nodes = tuple(self._as_listed(node) for node in observed.nodes)
        return replace(tick.world, memory=tick.compiled.memory, observed=replace(observed, nodes=nodes))

    def _as_listed(self, node: Node) -> Node:
        """Ray's list of nodes does not tell that a node drains; Serve's replicas do, as long as there are any."""
        is_empty = node.id in self.drains.sticky and all(replica.node != node.id for replica in self.replicas())
        return replace(node, is_draining=node.is_draining and not is_empty)

    async def step(self) -> None:
        await self.sim.step()
        self._end_empty_nodes()
        self._start_nodes()
        for name in list(self.sim.store._services):
            serving = self.serving(name)
            self.least[name] = min(self.least.get(name, serving), serving)
        self.most_draining = max(self.most_draining, len(self.draining))
        if self.compactor is None:
            ports = CompactionPorts(
                clock=self.sim.clock,
                store=self.sim.store,
                drains=self.drains,
                provider=self.provider,
                planner=self.planner,
                advisers=self.sim.advisers,
            )
            self.compactor = Compactor(ports, lambda: self.world)
            await self.compactor.load()
        try:
            await self.compactor.turn()
        except Crashed:
            self.compactor = None
            self.crashes += 1

    def _end_empty_nodes(self) -> None:
        self.drains.end_what_is_empty({replica.node for replica in self.replicas() if replica.node is not None})

    def _start_nodes(self) -> None:
        waits = any(replica.state == "STARTING" and replica.node is None for replica in self.replicas())
        self._waited = self._waited + 1 if waits and self.grows else 0
        if self._waited >= NODE_START:
            number = len(self.sim.nodes.nodes) + 1
            self.sim.nodes.add(make_node(number, "abc"[number % 3], cpus=4))
            self._waited = 0

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            await self.step()

    async def until(self, condition: Any, within: int = 900) -> None:
        for _ in range(within):
            if condition():
                return
            await self.step()
        state = self.compactor.status if self.compactor else None
        raise AssertionError(f"not within {within} s: {state}\n{self.sim.describe()}")

    def replicas(self, name: str | None = None) -> list[Any]:
        names = [name] if name else list(self.sim.store._services)
        return [
            replica
            for one in names
            for _, found in self.sim.watch.applications(one)
            for deployment in found.all_deployments
            for replica in deployment.replicas
        ]

    def serving(self, name: str) -> int:
        return sum(1 for replica in self.replicas(name) if replica.is_serving)

    @property
    def alive(self) -> int:
        return sum(1 for node in self.sim.nodes.nodes.values() if node.is_alive)

    @property
    def draining(self) -> set[str]:
        return {node.id for node in self.sim.nodes.nodes.values() if node.is_alive and node.is_draining}

    @property
    def state(self) -> str:
        return self.compactor.status.state if self.compactor else "dead"

    def kinds(self) -> list[str]:
        return [event.kind for event in self.sim.store._events if not event.service]


def spec(version: str = "v1", size: Any = 6, name: str = "chat", **options: Any) -> DesiredService:
    return service(name, version, size, steps=steps(50), scale_down=0, max_request=20, **options)
