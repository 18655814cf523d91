"""A real HAProxy under test, with what a test needs at hand."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from reconciler.adapters.clock import SystemClock
from reconciler.gateway import GatewaySettings, HAProxyGateway
from specs.observed import Endpoint, GatewaySeen
from specs.routes import CellWeight, RouteTable, ServiceRoute
from tests.contract.gateway_replicas import ReplicaDouble, free_port

DEADLINE = 15.0


def settings(tmp_path: Path, **changes: Any) -> GatewaySettings:
    """Return settings for a small gateway that looks at itself often."""
    small = GatewaySettings(
        folder=tmp_path / "gateway",
        port=free_port(),
        lanes=16,
        tick=timedelta(seconds=0.3),
        cooling=timedelta(seconds=0.3),
    )
    return replace(small, **changes)


def service(name: str, *cells: tuple[str, int], route: str | None = None, seconds: float = 600.0) -> ServiceRoute:
    """Return a row; the route is the service's name by default."""
    weights = tuple(CellWeight(cell=cell, weight=weight) for cell, weight in cells)
    return ServiceRoute(service=name, route=route or f"/{name}", cells=weights, max_request_seconds=seconds)


def table(*services: ServiceRoute) -> RouteTable:
    """Return a table of rows."""
    return RouteTable(services=services)


def endpoints(*doubles: ReplicaDouble) -> dict[str, tuple[Endpoint, ...]]:
    """Return where the doubles are, by cell."""
    cells: dict[str, tuple[Endpoint, ...]] = {}
    for double in doubles:
        cells[double.cell] = (*cells.get(double.cell, ()), double.endpoint)
    return cells


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = DEADLINE) -> None:
    """Return when the condition holds; fail when it never does."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


class Front:
    """A running gateway and a client of it."""

    def __init__(self, gateway: HAProxyGateway, given: GatewaySettings, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.port = given.port
        self.folder = given.folder
        self.session = session

    @property
    def pid(self) -> int:
        """HAProxy's process."""
        return self.gateway.pid

    def url(self, path: str) -> URL:
        return URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """Return the status and the JSON body."""
        async with self.session.get(self.url(path), allow_redirects=False, **options) as answer:
            return answer.status, await answer.json(content_type=None)

    async def ask(self, method: str, path: str) -> int:
        """Return the status; 502 also when the connection was closed without an answer."""
        try:
            async with self.session.request(method, self.url(path)) as answer:
                return answer.status
        except aiohttp.ServerDisconnectedError:
            return 502

    async def until(self, condition: Callable[[GatewaySeen], bool]) -> GatewaySeen:
        """Return the first view for which the condition holds."""
        seen = await self.gateway.observe()

        async def holds() -> bool:
            nonlocal seen
            seen = await self.gateway.observe()
            return condition(seen)

        try:
            await eventually(holds)
        except TimeoutError:
            raise AssertionError(f"never so: {seen}") from None
        return seen

    async def serve(self, routes: RouteTable, *doubles: ReplicaDouble) -> None:
        """Route and wait until every double that should answer does."""
        await self.gateway.route(routes)
        await self.gateway.refresh(endpoints(*doubles), complete=True)
        await self.until_up(*doubles)

    async def until_up(self, *doubles: ReplicaDouble) -> None:
        """Wait until exactly these replicas pass their checks."""
        wanted = {(double.cell, double.replica) for double in doubles}
        await self.until(lambda seen: {(lane.cell, replica) for lane in seen.lanes for replica in lane.up} == wanted)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes as they are and return the answer's."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            await writer.drain()
            async with asyncio.timeout(DEADLINE):
                return await reader.read()
        finally:
            writer.close()

    async def status_of(self, path: str) -> int:
        """Return the status for a path that is sent exactly as written."""
        answer = await self.raw(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        return int(answer.split(b" ", 2)[1])


@asynccontextmanager
async def front(given: GatewaySettings, *, stop: bool = True) -> AsyncIterator[Front]:
    """Run a gateway; at the end HAProxy is ended too, or left alone with `stop=False`."""
    gateway = HAProxyGateway(given, SystemClock())
    try:
        async with gateway.running(), client() as session:
            yield Front(gateway, given, session)
    finally:
        if stop:
            await gateway.stop(timedelta(0))


@asynccontextmanager
async def client(trust: ssl.SSLContext | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """Return a client without limits that keeps no connection: each request chooses anew."""
    connector = aiohttp.TCPConnector(limit=0, ssl=trust if trust else True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session
