"""Small HTTP servers on loopback: some misbehave as told, in the test's own loop; others answer from threads."""

from __future__ import annotations

import asyncio
import functools
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType


@dataclass(kw_only=True)
class Heard:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Heard, asyncio.StreamWriter], Awaitable[None]]


@dataclass(kw_only=True)
class LocalServer:
    """Where a server listens, and what it heard so far. `answer` may be replaced at any time."""

    answer: Answer
    host: str = "127.0.0.1"
    port: int = 0
    scheme: str = "http"
    heard: list[Heard] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard = await _read(reader)
            self.heard.append(heard)
            await self.answer(heard, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            return
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Heard:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Heard(method=method, path=path, headers=headers, body=body)


def saying(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Answer at once; header names are written with underscores."""

    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return answer


async def never(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """Take the request and say nothing for as long as anybody waits."""
    await asyncio.sleep(30)


async def drop_by_drop(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """Always send a little more, so that no single read waits for long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(600):
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)


async def without_end(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """Send as much as is taken."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(4096):
        writer.write(b"x" * 65536)
        await writer.drain()


async def hanging_up(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """Close without a word."""


@asynccontextmanager
async def serving(
    answer: Answer, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[LocalServer]:
    """Serve on a free port until the block ends; open connections are cut then."""
    server = LocalServer(answer=answer, host=host, scheme="https" if tls else "http")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        server.tasks.add(task)
        try:
            await server.serve(reader, writer)
        except asyncio.CancelledError:
            return
        finally:
            server.tasks.discard(task)

    listening = await asyncio.start_server(connected, host, 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in tuple(server.tasks):
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        await listening.wait_closed()


NO_HEADERS: Mapping[str, str] = MappingProxyType({})
JSON: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})


class Answering(BaseHTTPRequestHandler):
    """Answers every method from a thread, for callers that block the test's own, and logs nothing."""

    def answer(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815 - the names are http.server's

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def say(self, status: int, body: bytes = b"", headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Send a whole answer; `headers` may contradict its length."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


Handler = type[BaseHTTPRequestHandler] | functools.partial[BaseHTTPRequestHandler]


@contextmanager
def listening(handler: Handler) -> Iterator[int]:
    """Answer each connection in a thread of its own until the block ends; return the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # It ends at the end of an interval, which each test waits for.
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
