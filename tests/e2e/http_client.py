"""The smallest HTTP/1.1 client that hides nothing: no retry, no redirect, each failure with its cause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

LIMIT = 1 << 20


class BrokenAnswer(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection, kept for the next request unless the server closes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.is_reusable = True

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        return cls(*await asyncio.open_connection(host, port, limit=LIMIT))

    @property
    def is_closed_by_server(self) -> bool:
        return self._reader.at_eof() or self._reader.exception() is not None

    def close(self) -> None:
        self._writer.transport.abort()

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, host: str = "gateway", close: bool = False
    ) -> Answer:
        """Send one request and read the whole answer."""
        await self._send(method, path, body, host=host, close=close)
        status, headers = await self._head()
        parts = [part async for part in self._body(headers)]
        self.is_reusable = headers.get("connection", "").lower() != "close" and not close
        return Answer(status=status, headers=headers, body=b"".join(parts))

    async def stream(self, path: str, *, host: str = "gateway") -> AsyncIterator[bytes]:
        """Send a GET and yield its answer's body as it comes; the first part is the status."""
        await self._send("GET", path, b"", host=host, close=True)
        status, headers = await self._head()
        yield str(status).encode()
        async for part in self._body(headers):
            yield part

    async def _send(self, method: str, path: str, body: bytes, *, host: str, close: bool) -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        if close:
            head += "Connection: close\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        await self._writer.drain()

    async def _head(self) -> tuple[int, dict[str, str]]:
        try:
            raw = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise BrokenAnswer(f"no answer ({len(error.partial)} bytes)") from error
        first, *lines = raw.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def _body(self, headers: dict[str, str]) -> AsyncIterator[bytes]:
        try:
            if headers.get("transfer-encoding", "").lower() == "chunked":
                while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    yield await self._reader.readexactly(size)
                    await self._reader.readexactly(2)
                await self._reader.readexactly(2)
            elif "content-length" in headers:
                yield await self._reader.readexactly(int(headers["content-length"]))
            else:
                self.is_reusable = False
                while part := await self._reader.read(65536):
                    yield part
        except asyncio.IncompleteReadError as error:
            raise BrokenAnswer("the answer ended early") from error
