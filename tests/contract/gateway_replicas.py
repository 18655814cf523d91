"""What the gateway talks to in tests: small servers that behave at HTTP as Serve's direct-ingress replicas do."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from aiohttp import WSMsgType, web
from multidict import CIMultiDict

from specs.observed import Endpoint

CHUNK = b"x" * 65536


PORTS = range(20_000, 30_000)
"""Below the kernel's own choice: no server or client of another test is given one of these meanwhile."""


def free_port() -> int:
    """Return a port that nobody had a moment ago."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class ReplicaDouble:
    """One replica of one cell: it answers below its own prefix, and names it at `/-/routes`."""

    def __init__(self, cell: str, replica: str) -> None:
        self.cell = cell
        self.replica = replica
        self.is_draining = False
        self.healthy_answers: int | None = None
        self.check_seconds = 0.0
        """How long a health check waits for its answer: a replica whose event loop is busy."""
        self.late_answers = 0
        """How many checks pass before it drains; None: it does not."""
        self.crashes = False
        """Every request is lost before its answer."""
        self.serves: set[str] | None = None
        """Cells of a Serve proxy; None: a replica of one cell."""
        self.executed: list[str] = []
        """`METHOD REST` of every request that reached the application."""
        self.headers: CIMultiDict[str] = CIMultiDict()
        """Of the last request."""
        self.release = asyncio.Event()
        """Lets `/hold` and `/stream` end."""
        self.port = 0
        self.zone = ""
        self.room = 0
        """How many requests at once it is said to take."""
        self.held = 0
        """How many `/hold` and `/slow` requests it has now, and the most that it had."""
        self.most_held = 0
        self._runner: web.AppRunner | None = None

    @property
    def prefix(self) -> str:
        return f"/_/{self.cell}"

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(ip="127.0.0.1", port=self.port, replica=self.replica, zone=self.zone, room=self.room)

    @property
    def connections(self) -> int:
        """Open connections to this server."""
        assert self._runner is not None
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/-/healthz", self._health)
        app.router.add_get("/-/routes", self._routes)
        app.router.add_route("*", "/{rest:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Die: connections are cut, new ones are refused."""
        self.release.set()
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
            # Whoever was accepted at this moment gets its handler first: cleanup closes only what has one.
            await asyncio.sleep(0.01)
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=503, text="DRAINING") if self.is_draining else web.Response(text="success")

    async def _routes(self, request: web.Request) -> web.Response:
        if self.healthy_answers is not None:
            self.is_draining = self.healthy_answers <= 0
            self.healthy_answers -= 1
        if self.check_seconds:
            await asyncio.sleep(self.check_seconds)
            self.late_answers += 1
        if self.is_draining:
            return web.Response(status=503, text="DRAINING")
        routes = {f"/_/{cell}": cell for cell in sorted(self.serves or {self.cell})}
        body = json.dumps(routes, separators=(",", ":"))
        return web.Response(text=body, content_type="application/json")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        prefix = next((f"/_/{cell}" for cell in self.serves or {self.cell} if path.startswith(f"/_/{cell}")), None)
        if prefix is None:
            return web.Response(status=404, text=f"Path '{path}' not found.")
        rest = path.removeprefix(prefix)
        if self.crashes:
            return await self._crash(request)
        self.executed.append(f"{request.method} {rest}")
        self.headers = CIMultiDict(request.headers)
        handler = {
            "/hold": self._hold,
            "/stream": self._stream,
            "/ws": self._socket,
            "/upload": self._upload,
            "/download": self._download,
            "/crash": self._crash,
            "/redirect": self._redirect,
            "/slow": self._slow,
            "/cut": self._cut,
        }.get(rest, self._echo)
        return await handler(request)

    async def _echo(self, request: web.Request) -> web.Response:
        status = int(request.query.get("status", "200"))
        body = {"cell": self.cell, "replica": self.replica, "path": request.raw_path}
        return web.json_response(body, status=status)

    async def _slow(self, request: web.Request) -> web.Response:
        with self._holding():
            await asyncio.sleep(int(request.query["ms"]) / 1000)
        return await self._echo(request)

    async def _hold(self, request: web.Request) -> web.Response:
        with self._holding():
            await self.release.wait()
        return web.Response(text="held")

    @contextmanager
    def _holding(self) -> Iterator[None]:
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        try:
            yield
        finally:
            self.held -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count = 0
        while not self.release.is_set():
            await response.write(f"data: {count}\n\n".encode())
            count += 1
            await asyncio.sleep(0.05)
        await response.write(b"data: end\n\n")
        return response

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(f"{self.replica}:{message.data}")
                if message.data == "bye":
                    await ws.close()
        return ws

    async def _upload(self, request: web.Request) -> web.Response:
        size = 0
        async for chunk in request.content.iter_chunked(1 << 20):
            size += len(chunk)
        return web.Response(text=str(size))

    async def _download(self, request: web.Request) -> web.StreamResponse:
        size = int(request.query["size"])
        response = web.StreamResponse(headers={"Content-Length": str(size)})
        await response.prepare(request)
        for _ in range(size // len(CHUNK)):
            await response.write(CHUNK)
        return response

    async def _crash(self, request: web.Request) -> web.Response:
        """Do the work, then lose the connection before the answer."""
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        """Break off in the middle of an answer."""
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(b"x" * 1000)
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _redirect(self, request: web.Request) -> web.Response:
        location = request.query["to"].replace("PREFIX", self.prefix)
        headers = {"Location": location}
        if "cookie" in request.query:
            headers["Set-Cookie"] = request.query["cookie"].replace("PREFIX", self.prefix)
        return web.Response(status=307, headers=headers)


@asynccontextmanager
async def replicas(*names: tuple[str, str]) -> AsyncIterator[list[ReplicaDouble]]:
    """Run a replica per (cell, replica id)."""
    doubles = [ReplicaDouble(cell, replica) for cell, replica in names]
    try:
        for double in doubles:
            await double.start()
        yield doubles
    finally:
        for double in doubles:
            await double.stop()
