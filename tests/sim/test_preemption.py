"""Nodes that are about to be taken away: replaced before they go, left before they go, and never twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.errors import Retry
from reconciler.loop import Tick
from reconciler.preemption import Preemptions, UnknownNodeError
from specs.preemption import GRACE
from specs.world import World
from tests.builders import steps
from tests.sim.compacting import FakeDrains
from tests.sim.fake_nodes import make_node
from tests.sim.fake_store import Crashed
from tests.sim.test_markets import of_markets, on, per_market, reclaim, spot_nodes
from tests.sim.test_zones import deployed, spec
from tests.sim.world import Simulation

NOTICE = 120


class Cloud:
    """Spot nodes with a notice, told to the real keeper of notices, and then taken away whatever is on them."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.drains = FakeDrains(nodes=sim.nodes)
        self.preemptions = self._new()
        self.on_doomed: list[int] = []
        """Requests that could still go to a node in the second in which it went."""
        self.least = 100
        self._takes: dict[str, int] = {}
        sim.watch.further.append(self._look)
        sim.notices = lambda: self.preemptions.notices

    def _new(self) -> Preemptions:
        return Preemptions(self.sim.clock, self.sim.store, self.drains, self._world)

    def _world(self) -> World | None:
        return self.sim.tick.world if self.sim.tick is not None else None

    async def restart(self) -> None:
        """The daemon starts anew, its loop with it: what it remembers is what was saved."""
        self.sim.kill()
        self.sim.tick = None
        self.preemptions = self._new()
        await self.preemptions.load()
        await self.sim.start()

    async def tell(self, *nodes: str, seconds: int = NOTICE) -> None:
        for node in nodes:
            self._takes[node] = seconds
            deadline = self.sim.clock.now() + timedelta(seconds=seconds)
            await self.preemptions.note(node, deadline, "watcher")
        self._mark()

    def _mark(self) -> None:
        for node, known in self.sim.nodes.nodes.items():
            self.sim.nodes.nodes[node] = replace(known, preemption=self.preemptions.notices.get(node))

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self._takes = {node: left - 1 for node, left in self._takes.items()}
            for node in [node for node, left in self._takes.items() if left == 0]:
                self.on_doomed.append(self._reachable(node))
                reclaim(self.sim, node)
            await self.sim.step()
            await self._keep_notices()
            self._mark()

    async def _keep_notices(self) -> None:
        """The keeper takes a turn, and dies with the daemon."""
        died = False
        try:
            async with asyncio.TaskGroup() as telling:
                await self.preemptions.turn(telling)
        except* Crashed:
            died = True
        if died:
            await self.restart()

    def _reachable(self, node: str) -> int:
        """Return how many of a node's replicas the gateway would still send requests to."""
        row = self.sim.gateway.table.service("chat")
        weights = {cell.cell: cell.weight for cell in row.cells} if row else {}
        found = 0
        for key, app in self.sim.watch.applications("chat"):
            up = self.sim.watch.truth.up(key.name) if weights.get(key.name) else frozenset()
            here = [r for d in app.deployments.values() for r in d.replicas if r.node == node]
            found += sum(1 for replica in here if replica.id in up)
        return found

    def _look(self, tick: Tick) -> None:
        self.least = min(self.least, self.sim.serve.serving("chat", "Echo"))


async def started(sim: Simulation, **options: Any) -> Cloud:
    await deployed(sim, spec(**options))
    return Cloud(sim)


def running_on(sim: Simulation, node: str) -> int:
    apps = sim.watch.applications("chat")
    return sum(1 for _, app in apps for dep in app.deployments.values() for r in dep.replicas if r.node == node)


async def test_replacements_run_and_requests_leave_before_a_node_goes() -> None:
    sim = of_markets("a", "b")
    cloud = await started(sim, size=6, placement=on(2))
    doomed = next(node for node in spot_nodes(sim) if running_on(sim, node))
    await cloud.tell(doomed)
    await cloud.run(NOTICE + 30)
    assert cloud.drains.asked == [doomed]
    assert cloud.on_doomed == [0], "the gateway would have sent requests to a node that was gone"
    assert cloud.least >= 6
    assert per_market(sim) == {"spot": 4, "on-demand": 2}
    kinds = [event.kind for event in sim.store._events if not event.service]
    assert kinds == ["PreemptionNoted", "PreemptedNodeGone"]


async def test_without_room_on_spot_the_rest_is_started_elsewhere_before_the_node_goes() -> None:
    sim = of_markets("a", spot=1, stays=1, cpus=4)
    sim.nodes.add(make_node(2, "a", cpus=100))
    cloud = await started(sim, size=4, placement=on(1, spread=False))
    assert per_market(sim) == {"spot": 3, "on-demand": 1}
    await cloud.tell(*spot_nodes(sim))
    await cloud.run(NOTICE - 1)
    assert per_market(sim) == {"spot": 0, "on-demand": 4}
    assert cloud.least >= 4
    await cloud.run(30)
    assert cloud.on_doomed == [0]


async def squeezed(sim: Simulation) -> Cloud:
    """Return the cloud of a service that fills two spot nodes, beside a large one that stays."""
    sim.nodes.add(make_node(3, "a", cpus=100))
    return await started(sim, size=5, placement=on(1, spread=False), surge=2)


async def test_one_of_two_full_spot_nodes_gives_its_share_to_those_that_stay() -> None:
    sim = of_markets("a", spot=2, stays=1, cpus=2)
    cloud = await squeezed(sim)
    assert per_market(sim) == {"spot": 4, "on-demand": 1}
    await cloud.tell(spot_nodes(sim)[0])
    await cloud.run(NOTICE - 1)
    assert per_market(sim) == {"spot": 2, "on-demand": 3}
    assert cloud.least >= 5
    await cloud.run(10)
    assert cloud.on_doomed == [0]


async def test_a_short_notice_leaves_no_time_for_serves_own_word() -> None:
    sim = of_markets("a", spot=2, stays=1, cpus=2)
    cloud = await squeezed(sim)
    await cloud.tell(spot_nodes(sim)[0], seconds=30)
    await cloud.run(29)
    assert cloud.least >= 5
    assert per_market(sim) == {"spot": 2, "on-demand": 3}
    await cloud.run(10)
    assert cloud.on_doomed == [0]


async def test_a_node_is_left_in_time_even_when_nothing_can_take_its_place() -> None:
    sim = of_markets("a", spot=2, stays=0, cpus=3)
    cloud = await started(sim, size=6, placement=on(0, spread=False), surge=1)
    await cloud.tell(spot_nodes(sim)[0])
    await cloud.run(NOTICE - int(GRACE.total_seconds()) - 2)
    assert cloud._reachable(spot_nodes(sim)[0]) == 3, "it was left too early, with nothing in its place"
    await cloud.run(int(GRACE.total_seconds()))
    assert cloud._reachable(spot_nodes(sim)[0]) == 0
    sim.watch.excused()


async def test_the_last_node_is_not_left_for_nothing() -> None:
    sim = of_markets("a", spot=1, stays=0)
    cloud = await started(sim, size=3, placement=on(0, spread=False))
    await cloud.tell(*spot_nodes(sim))
    await cloud.run(NOTICE - 2)
    assert cloud._reachable(spot_nodes(sim)[0]) == 3


async def test_a_restart_keeps_the_deadline_and_tells_ray_once() -> None:
    sim = of_markets("a")
    cloud = await started(sim, placement=on(0, spread=False))
    first = spot_nodes(sim)[0]
    cloud.drains.problem = Retry("Ray's head is busy")
    await cloud.tell(first)
    await cloud.run(3)
    deadline = cloud.preemptions.notices[first].deadline
    await cloud.restart()
    cloud.drains.problem = None
    assert cloud.preemptions.notices[first].deadline == deadline
    await cloud.run(3)
    await cloud.restart()
    await cloud.run(3)
    assert cloud.drains.asked == [first]


async def test_a_node_that_was_left_stays_left_when_the_daemon_starts_anew() -> None:
    sim = of_markets("a", spot=2, stays=0, cpus=3)
    cloud = await started(sim, size=6, placement=on(0, spread=False), surge=1)
    first = spot_nodes(sim)[0]
    await cloud.tell(first)
    await cloud.run(NOTICE - 10)
    assert cloud._reachable(first) == 0
    await cloud.restart()
    assert sim.daemon is not None
    assert sim.daemon.nodes == ()
    await sim._refresh()
    assert cloud._reachable(first) == 0, "requests go to a node that is about to go, until a turn has seen it"


async def test_a_candidate_on_trial_does_not_inherit_all_when_the_stable_revision_s_node_goes() -> None:
    sim = of_markets("a", spot=1, stays=0, cpus=2)
    ways = {"size": 2, "placement": on(0, spread=False), "surge": 1, "steps": steps(10, "")}
    cloud = await started(sim, **ways)
    first = spot_nodes(sim)[0]
    sim.nodes.add(make_node(9, "a", cpus=1, market="spot"))
    sim.push(spec("v2", **ways))
    await sim.until(lambda: sim.weights().get("v2") == 10, what="the trial")
    assert (running_on(sim, first), running_on(sim, "node9")) == (2, 1)
    await cloud.tell(first)
    await cloud.run(NOTICE - 2)
    assert cloud._reachable(first) == 2, "the candidate got all requests"


async def test_the_same_notice_again_changes_nothing_and_an_earlier_one_counts() -> None:
    sim = of_markets("a")
    cloud = await started(sim, placement=on(0, spread=False))
    node = spot_nodes(sim)[0]
    at = sim.clock.now() + timedelta(seconds=60)
    first = await cloud.preemptions.note(sim.nodes.nodes[node].ip, at, "watcher", "reclaimed")
    again = await cloud.preemptions.note(node, at + timedelta(seconds=5), "watcher")
    assert (again.event, again.notice) == (0, first.notice)
    sooner = await cloud.preemptions.note(node, at - timedelta(seconds=30), "watcher")
    assert sooner.event > first.event
    assert cloud.preemptions.notices[node].deadline == at - timedelta(seconds=30)
    with pytest.raises(UnknownNodeError):
        await cloud.preemptions.note("node99", at, "watcher")
    await cloud.run(3)
    assert cloud.drains.asked == [node]


async def test_a_rollout_goes_on_while_spot_nodes_come_and_go() -> None:
    sim = of_markets("a", "b", spot=2)
    cloud = await started(sim, size=6, placement=on(2), max_request=10)
    sim.push(spec("v2", size=6, placement=on(2), max_request=10))
    for number in range(3):
        nodes = [node for node in spot_nodes(sim) if sim.nodes.nodes[node].is_alive]
        await cloud.tell(nodes[0], seconds=60)
        await cloud.run(70)
        sim.nodes.add(make_node(50 + number, "ab"[number % 2], cpus=100, market="spot"))
    await cloud.run(200)
    await sim.settle()
    assert sim.memory().stable == "v2"
    assert per_market(sim) == {"spot": 4, "on-demand": 2}
    assert Counter(cloud.on_doomed) == {0: 3}
