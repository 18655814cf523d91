"""A wire between the daemon and Ray's dashboard that can be cut, and that notes what goes over it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from urllib.parse import urlsplit

MOST_CONNECTIONS = 200


class Mode(Enum):
    """What happens to connections."""

    PASS = "pass"
    REFUSE = "refuse"
    """Each connection is closed at once, those that exist too."""
    HANG = "hang"
    """Connections are taken, and nothing is ever answered."""


class Wire:
    """Forwards connections to one address while its thread runs."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self.mode = Mode.PASS
        self.url = ""
        self.writes: list[tuple[float, str]] = []
        """When each PUT and POST to Ray began, and its first line."""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._over = asyncio.Event()
        self._connections = 0
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(5)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._over.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self.mode is Mode.REFUSE or self._connections > MOST_CONNECTIONS:
                return
            with suppress(OSError):
                there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
                try:
                    async with asyncio.TaskGroup() as group:
                        sending = group.create_task(self._copy(reader, there_writer, notes=True))
                        group.create_task(self._answer(there_reader, writer, sending))
                        group.create_task(self._cut(group))
                except* (_Ended, OSError):
                    pass
                finally:
                    there_writer.transport.abort()
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sending: asyncio.Task[None]
    ) -> None:
        await self._copy(reader, writer, notes=False)
        sending.cancel()
        raise _Ended

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, notes: bool) -> None:
        while part := await reader.read(65536):
            while self.mode is Mode.HANG:
                await asyncio.sleep(0.05)
            if notes and part.startswith((b"PUT ", b"POST ")):
                self.writes.append((time.time(), part.split(b"\r\n", 1)[0].decode()))
            writer.write(part)
            await writer.drain()
        raise _Ended

    async def _cut(self, group: asyncio.TaskGroup) -> None:
        while self.mode is not Mode.REFUSE:
            await asyncio.sleep(0.05)
        raise _Ended


class _Ended(Exception):
    """One side has closed the connection."""


@contextmanager
def wire_to(target: str) -> Iterator[Wire]:
    """Lend a wire to `target`."""
    wire = Wire(target)
    wire.start()
    try:
        yield wire
    finally:
        wire.stop()
