"""One suite for the `Gateway` port: what holds for the fake in virtual time holds for HAProxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.errors import Stalled
from reconciler.gateway import GatewaySettings, HAProxyGateway
from reconciler.ports import Gateway
from specs.observed import Endpoint, GatewaySeen
from specs.routes import CellWeight, HeaderMatch, HeaderRoute, RouteTable, ServiceRoute, Sticky, StickyKind
from tests.contract.gateway_replicas import ReplicaDouble, free_port
from tests.sim.fake_clock import FakeClock
from tests.sim.fake_gateway import FakeGateway

A = "chat.aaaaaaaaaaaa.-.-.0"
B = "chat.bbbbbbbbbbbb.-.-.0"
UNSEEN = timedelta(seconds=1)
DEADLINE = 15.0


class Stage(Protocol):
    """A gateway under test, and the means to play its surroundings."""

    gateway: Gateway

    async def endpoint(self, cell: str, replica: str) -> Endpoint:
        """Start a replica."""

    async def request(self, cell: str) -> Callable[[], None]:
        """Begin a request to a cell; it is in flight until the returned function is called."""

    async def until(self, condition: Callable[[GatewaySeen], bool]) -> GatewaySeen:
        """Return the first view for which the condition holds."""

    async def pass_time(self, duration: timedelta) -> None:
        """Let time go by."""


class FakeStage:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.gateway = FakeGateway(self.clock, unseen=UNSEEN)
        self._port = 30000

    async def endpoint(self, cell: str, replica: str) -> Endpoint:
        self._port += 1
        return Endpoint(ip="127.0.0.1", port=self._port, replica=replica)

    async def request(self, cell: str) -> Callable[[], None]:
        self.gateway.in_flight[cell] = 1
        return lambda: self.gateway.in_flight.pop(cell, None) and None

    async def until(self, condition: Callable[[GatewaySeen], bool]) -> GatewaySeen:
        for _ in range(200):
            seen = await self.gateway.observe()
            if condition(seen):
                return seen
            await self.clock.advance(timedelta(milliseconds=100))
        raise AssertionError(f"not within 20 virtual seconds: {seen}")

    async def pass_time(self, duration: timedelta) -> None:
        await self.clock.advance(duration)


class HAProxyStage:
    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.port = free_port()
        settings = GatewaySettings(folder=folder, port=self.port, lanes=16, unseen=UNSEEN, tick=timedelta(seconds=0.3))
        self.gateway = HAProxyGateway(settings, SystemClock())
        self._stack = stack
        self._doubles: dict[str, list[ReplicaDouble]] = {}

    async def endpoint(self, cell: str, replica: str) -> Endpoint:
        double = ReplicaDouble(cell, replica)
        await double.start()
        self._stack.push_async_callback(double.stop)
        self._doubles.setdefault(cell, []).append(double)
        return double.endpoint

    async def request(self, cell: str) -> Callable[[], None]:
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        answer = asyncio.create_task(self._hold(session))
        self._stack.push_async_callback(_cancelled, answer)
        double = self._doubles[cell][0]
        async with asyncio.timeout(DEADLINE):
            while not double.executed:
                await asyncio.sleep(0.01)
        return double.release.set

    async def _hold(self, session: aiohttp.ClientSession) -> None:
        async with session.get(f"http://127.0.0.1:{self.port}/chat/hold") as answer:
            assert await answer.text() == "held"

    async def until(self, condition: Callable[[GatewaySeen], bool]) -> GatewaySeen:
        try:
            async with asyncio.timeout(DEADLINE):
                while not condition(seen := await self.gateway.observe()):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {DEADLINE} s: {seen}") from None
        return seen

    async def pass_time(self, duration: timedelta) -> None:
        await asyncio.sleep(duration.total_seconds())


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(params=["fake", "haproxy"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    if request.param == "fake":
        yield FakeStage()
        return
    async with AsyncExitStack() as stack:
        real = HAProxyStage(tmp_path / "gateway", stack)
        stack.push_async_callback(real.gateway.stop, timedelta(0))
        await stack.enter_async_context(real.gateway.running())
        yield real


def table(*cells: tuple[str, int], route: str = "/chat", seconds: float = 600.0) -> RouteTable:
    weights = tuple(CellWeight(cell=cell, weight=weight) for cell, weight in cells)
    row = ServiceRoute(service="chat", route=route, cells=weights, max_request_seconds=seconds)
    return RouteTable(services=(row,))


def up(seen: GatewaySeen, cell: str) -> frozenset[str]:
    lane = seen.lane(cell)
    return lane.up if lane else frozenset()


def weights(seen: GatewaySeen) -> dict[str, int]:
    return {lane.cell: lane.weight for lane in seen.lanes}


async def test_weights_are_seen_as_they_were_routed(stage: Stage) -> None:
    await stage.gateway.route(table((A, 9000), (B, 1000)))
    assert weights(await stage.gateway.observe()) == {A: 9000, B: 1000}
    await stage.gateway.route(table((A, 2500), (B, 7500)))
    assert weights(await stage.gateway.observe()) == {A: 2500, B: 7500}
    await stage.gateway.route(table((A, 0), (B, 0)))
    assert weights(await stage.gateway.observe()) == {A: 0, B: 0}


async def test_a_replica_is_up_after_a_check_passed(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000)))
    assert up(await stage.gateway.observe(), A) == frozenset()
    await stage.gateway.refresh({A: (await stage.endpoint(A, "one"),)}, complete=True)
    assert up(await stage.gateway.observe(), A) == frozenset()
    await stage.until(lambda seen: up(seen, A) == {"one"})


async def test_a_cell_without_weight_has_a_lane_and_checked_servers(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000), (B, 0)))
    endpoints = {A: (await stage.endpoint(A, "one"),), B: (await stage.endpoint(B, "two"),)}
    await stage.gateway.refresh(endpoints, complete=True)
    seen = await stage.until(lambda seen: up(seen, A) == {"one"} and up(seen, B) == {"two"})
    assert weights(seen) == {A: 10000, B: 0}


async def test_endpoints_told_before_the_lane_was_leased_are_used(stage: Stage) -> None:
    await stage.gateway.refresh({A: (await stage.endpoint(A, "one"),)}, complete=True)
    assert (await stage.gateway.observe()).lanes == ()
    await stage.gateway.route(table((A, 10000)))
    await stage.until(lambda seen: up(seen, A) == {"one"})


async def test_servers_change_while_weights_stay(stage: Stage) -> None:
    await stage.gateway.route(table((A, 7000), (B, 3000)))
    one, two = await stage.endpoint(A, "one"), await stage.endpoint(A, "two")
    await stage.gateway.refresh({A: (one,)}, complete=True)
    await stage.until(lambda seen: up(seen, A) == {"one"})
    await stage.gateway.refresh({A: (one, two)}, complete=True)
    seen = await stage.until(lambda seen: up(seen, A) == {"one", "two"})
    assert weights(seen) == {A: 7000, B: 3000}


async def test_an_incomplete_observation_removes_nothing(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000)))
    await stage.gateway.refresh({A: (await stage.endpoint(A, "one"),)}, complete=True)
    await stage.until(lambda seen: up(seen, A) == {"one"})
    for _ in range(4):
        await stage.gateway.refresh({}, complete=False)
        await stage.pass_time(UNSEEN / 2)
    assert up(await stage.gateway.observe(), A) == {"one"}


async def test_an_endpoint_that_still_answers_stays_until_it_was_long_missing(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000)))
    one, two = await stage.endpoint(A, "one"), await stage.endpoint(A, "two")
    await stage.gateway.refresh({A: (one, two)}, complete=True)
    await stage.until(lambda seen: up(seen, A) == {"one", "two"})
    await stage.gateway.refresh({A: (two,)}, complete=True)
    await stage.pass_time(UNSEEN / 4)
    await stage.gateway.refresh({A: (two,)}, complete=True)
    assert up(await stage.gateway.observe(), A) == {"one", "two"}
    await stage.pass_time(UNSEEN)
    await stage.gateway.refresh({A: (two,)}, complete=True)
    await stage.until(lambda seen: up(seen, A) == {"two"})


async def test_blind_time_does_not_count_as_missing(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000)))
    one = await stage.endpoint(A, "one")
    await stage.gateway.refresh({A: (one,)}, complete=True)
    await stage.until(lambda seen: up(seen, A) == {"one"})
    await stage.pass_time(UNSEEN * 1.5)
    await stage.gateway.refresh({}, complete=True)
    await stage.pass_time(UNSEEN / 4)
    assert up(await stage.gateway.observe(), A) == {"one"}


async def test_a_cell_that_left_the_table_is_seen_while_its_requests_last(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000)))
    await stage.gateway.refresh({A: (await stage.endpoint(A, "one"),)}, complete=True)
    await stage.until(lambda seen: up(seen, A) == {"one"})
    finish = await stage.request(A)
    await stage.until(lambda seen: [lane.in_flight for lane in seen.lanes] == [1])
    await stage.gateway.route(table((B, 10000)))
    await stage.pass_time(timedelta(seconds=1))
    seen = await stage.gateway.observe()
    assert weights(seen) == {A: 0, B: 10000}
    assert seen.lane(A) is not None
    finish()
    await stage.until(lambda seen: weights(seen) == {B: 10000})


async def test_a_draining_cell_may_come_back(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000)))
    await stage.gateway.refresh({A: (await stage.endpoint(A, "one"),)}, complete=True)
    await stage.until(lambda seen: up(seen, A) == {"one"})
    finish = await stage.request(A)
    await stage.gateway.route(table((B, 10000)))
    await stage.gateway.route(table((A, 10000), (B, 0)))
    seen = await stage.gateway.observe()
    assert weights(seen) == {A: 10000, B: 0}
    assert up(seen, A) == {"one"}
    finish()


async def test_a_removed_service_leaves_nothing(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000)))
    await stage.gateway.route(RouteTable())
    await stage.until(lambda seen: seen.lanes == ())


async def test_endpoints_of_cells_without_a_lane_are_ignored(stage: Stage) -> None:
    await stage.gateway.refresh({B: (await stage.endpoint(B, "two"),)}, complete=True)
    assert (await stage.gateway.observe()).lanes == ()


async def test_two_services_on_one_route_are_refused_and_nothing_changes(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000)))
    twin = ServiceRoute(service="talk", route="/chat", cells=(CellWeight(cell=B, weight=10000),))
    with pytest.raises(Stalled, match="chat and talk both want the route /chat"):
        await stage.gateway.route(RouteTable(services=(*table((A, 10000)).services, twin)))
    assert weights(await stage.gateway.observe()) == {A: 10000}


async def test_what_a_service_asks_for_beside_its_weights_is_taken_or_refused_whole(stage: Stage) -> None:
    (row,) = table((A, 10000), (B, 0)).services
    sticky = Sticky(kind=StickyKind.COOKIE, name="chat-version")
    asked = HeaderRoute(cell=B, matches=(HeaderMatch(name="x-canary", value="yes"),))
    await stage.gateway.route(RouteTable(services=(replace(row, sticky=sticky, header=asked),)))
    assert weights(await stage.gateway.observe()) == {A: 10000, B: 0}
    for wrong in (
        replace(row, sticky=replace(sticky, name="a|b")),
        replace(row, header=replace(asked, cell="chat.cccccccccccc.-.-.0")),
        replace(row, header=replace(asked, matches=(HeaderMatch(name="x", value="(a+)+"),))),
    ):
        with pytest.raises(Stalled, match="chat wants what the gateway cannot express"):
            await stage.gateway.route(RouteTable(services=(wrong,)))
    assert weights(await stage.gateway.observe()) == {A: 10000, B: 0}


async def test_weights_that_do_not_sum_to_the_whole_are_a_bug(stage: Stage) -> None:
    with pytest.raises(Stalled, match="sum to 9000"):
        await stage.gateway.route(table((A, 9000)))


async def test_traffic_is_told_for_every_cell_with_a_lane(stage: Stage) -> None:
    await stage.gateway.route(table((A, 10000), (B, 0)))
    seen = await stage.gateway.observe()
    assert [(traffic.cell, traffic.requests) for traffic in seen.traffic] == [(A, 0), (B, 0)]
    assert seen.reloads == 0
