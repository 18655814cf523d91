"""What emptying nodes rests on: the fake, and Ray's own draining through a job."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import pytest

from reconciler.adapters.jobs import RayJobs
from reconciler.adapters.node_drains import RayDrains
from reconciler.adapters.nodes import RayNodes
from reconciler.adapters.ray_rest import RayRest
from reconciler.embedded import EmbeddedCluster, EmbeddedNode
from reconciler.errors import Stalled
from reconciler.ports import Drains, JobOrder
from specs.compaction import Holding
from tests.sim.compacting import FakeDrains
from tests.sim.fake_nodes import FakeNodes, make_node

WHY = "the contract of drains"

HOLDER = """
import sys, time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
class Trainer:
    def is_there(self): return True
ray.init(log_to_driver=False)
there = NodeAffinitySchedulingStrategy(node_id=sys.argv[1], soft=False)
trainer = ray.remote(Trainer).options(name=sys.argv[2], num_cpus=2, scheduling_strategy=there).remote()
ray.get(trainer.is_there.remote())
time.sleep(600)
"""
"""Holds two CPUs of a node until it is stopped."""


class Cluster(Protocol):
    """Nodes of four CPUs, and somebody who puts on them what Serve knows nothing of."""

    @property
    def drains(self) -> Drains: ...
    async def add_node(self) -> str:
        """Return the id of one more, on which there is nothing."""

    async def hold(self, node: str, name: str) -> None:
        """Take two of a node's CPUs for an actor."""

    async def let_go(self, name: str) -> None:
        """End that actor."""

    async def is_alive(self, node: str) -> bool:
        """Return whether a node is part of the cluster, after a moment."""


class Played:
    def __init__(self) -> None:
        self.nodes = FakeNodes()
        self.drains = FakeDrains(nodes=self.nodes)

    async def add_node(self) -> str:
        node = make_node(len(self.nodes.nodes) + 1, "a")
        self.nodes.add(node)
        return node.id

    async def hold(self, node: str, name: str) -> None:
        self.drains.foreign += (Holding(node=node, what=name, resources={"CPU": 2.0}),)

    async def let_go(self, name: str) -> None:
        self.drains.foreign = tuple(held for held in self.drains.foreign if held.what != name)

    async def is_alive(self, node: str) -> bool:
        self.drains.end_what_is_empty()
        return self.nodes.nodes[node].is_alive


class Real:
    def __init__(self, ray: EmbeddedCluster, rest: RayRest) -> None:
        self.drains = RayDrains(rest)
        self._ray, self._jobs, self._nodes = ray, RayJobs(rest, owner="contract"), RayNodes(rest)
        self._added: list[EmbeddedNode] = []
        self._holders: dict[str, str] = {}

    async def add_node(self) -> str:
        self._added.append(await asyncio.to_thread(self._ray.add_node, "a"))
        return self._added[-1].id

    async def hold(self, node: str, name: str) -> None:
        self._holders[name] = f"holder-{secrets.token_hex(4)}"
        command = shlex.join(["python", "-c", HOLDER, node, name])
        await self._jobs.start(JobOrder(id=self._holders[name], command=command))

    async def let_go(self, name: str) -> None:
        await self._jobs.stop(self._holders.pop(name))

    async def is_alive(self, node: str) -> bool:
        await asyncio.sleep(0.2)
        return any(found.id == node and found.is_alive for found in await self._nodes.read())

    async def clear(self) -> None:
        for name in list(self._holders):
            await self.let_go(name)
        for node in self._added:
            await asyncio.to_thread(self._ray.kill_node, node.ip)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.ray)])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    if request.param == "fake":
        yield Played()
        return
    ray: EmbeddedCluster = request.getfixturevalue("ray_cluster")
    async with RayRest(ray.dashboard_url) as rest:
        real = Real(ray, rest)
        try:
            yield real
        finally:
            await real.clear()


async def until(holds: Callable[[], Awaitable[bool]], *, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def held_on(cluster: Cluster, node: str) -> list[Holding]:
    return [held for held in await cluster.drains.holdings() if held.node == node]


async def refused(call: Awaitable[None]) -> str:
    """Return the reason for which a call is refused; "" when it is not."""
    try:
        await call
    except Stalled as error:
        return error.reason
    return ""


async def test_what_others_hold_is_told_and_keeps_a_node_from_being_drained_or_ended_unless_all_goes_with_it(
    cluster: Cluster,
) -> None:
    node, name = await cluster.add_node(), f"trainer-{secrets.token_hex(4)}"
    await cluster.hold(node, name)

    async def is_held() -> bool:
        return bool(await held_on(cluster, node))

    await until(is_held)
    assert await held_on(cluster, node) == [Holding(node=node, what=name, resources={"CPU": 2.0})]
    reasons = await asyncio.gather(
        refused(cluster.drains.drain(node, {}, WHY)),
        refused(cluster.drains.drain(node, {"CPU": 1.0}, WHY)),
        refused(cluster.drains.end(node)),
    )
    assert all(reasons)
    assert await cluster.is_alive(node)
    # Whatever is on a node that is about to be taken away goes with it, and to say so again changes nothing.
    for expected in (None, {"CPU": 2.0}):
        await cluster.drains.drain(node, expected, WHY)
    assert await cluster.is_alive(node)
    await cluster.let_go(name)

    async def is_gone() -> bool:
        return not await cluster.is_alive(node)

    await until(is_gone)
    assert await held_on(cluster, node) == []


async def test_an_empty_node_that_drains_leaves_and_what_has_left_can_be_drained_by_name_only(cluster: Cluster) -> None:
    node = await cluster.add_node()
    await cluster.drains.drain(node, {}, WHY)

    async def is_gone() -> bool:
        return not await cluster.is_alive(node)

    await until(is_gone)
    _, *reasons = await asyncio.gather(
        cluster.drains.drain(node, None, WHY),
        refused(cluster.drains.drain(node, {}, WHY)),
        refused(cluster.drains.end(node)),
    )
    assert all(reasons)
    assert not await cluster.is_alive(node)


async def test_a_node_on_which_nothing_is_in_use_ends_when_it_is_told_to(cluster: Cluster) -> None:
    node = await cluster.add_node()
    await cluster.drains.end(node)

    async def is_gone() -> bool:
        return not await cluster.is_alive(node)

    await until(is_gone)
