"""The load itself, in a process of its own: an open loop at a fixed rate, every answer written down.

Reads commands as JSON lines from stdin, writes one JSON line per ended request to a file. Bounded in time,
in requests in flight and in streams; loopback only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, TextIO

from tests.e2e.http_client import Answer, BrokenAnswer, Connection

MOST_IN_FLIGHT = 400
MOST_STREAMS = 50
PATIENCE = 60.0
POST_EVERY = 3
FRESH_EVERY = 2
"""Every second request takes a connection of its own, the others take turns on kept ones."""


class Load:
    """Everything that is sent to one service."""

    def __init__(self, settings: dict[str, Any], out: TextIO) -> None:
        self.host, self.port = settings["host"], settings["port"]
        assert self.host.startswith("127.")
        self.route, self.rate = settings["route"], settings["rate"]
        self.prefix = settings["prefix"]
        self.until = time.monotonic() + settings["seconds"]
        self.out = out
        self.kept: list[Connection] = []
        self.in_flight = 0
        self.streams = 0
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            orders = group.create_task(self.take_orders(group))
            await self.send_all(group)
            orders.cancel()

    async def take_orders(self, group: asyncio.TaskGroup) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            order = json.loads(line)
            if order["do"] == "stop":
                break
            if self.streams < MOST_STREAMS:
                self.streams += 1
                group.create_task(self.stream(order["id"], order["count"], order["pause"]))
        self.stopped.set()

    async def send_all(self, group: asyncio.TaskGroup) -> None:
        number, began = 0, time.monotonic()
        while not self.stopped.is_set() and time.monotonic() < self.until:
            due = int((time.monotonic() - began) * self.rate)
            while number < due:
                number += 1
                if self.in_flight >= MOST_IN_FLIGHT:
                    now = time.time()
                    self.write(id=f"{self.prefix}-{number}", kind="get", start=now, end=now, status=0, error="overload")
                    continue
                self.in_flight += 1
                group.create_task(self.request(number))
            await asyncio.sleep(0.5 / self.rate)

    def write(self, **record: Any) -> None:
        self.out.write(json.dumps(record) + "\n")

    async def request(self, number: int) -> None:
        key = f"{self.prefix}-{number}"
        kind = "post" if number % POST_EVERY == 0 else "get"
        start, status, revision, problem = time.time(), 0, "", ""
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self.ask(number, kind, key)
            status = answer.status
            revision = json.loads(answer.body)["revision"] if status == 200 else ""
            problem = "" if status == 200 else answer.body[:300].decode(errors="replace")
        except (OSError, BrokenAnswer, TimeoutError, ValueError, KeyError) as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            self.in_flight -= 1
        self.write(id=key, kind=kind, start=start, end=time.time(), status=status, revision=revision, error=problem)

    async def ask(self, number: int, kind: str, key: str) -> Answer:
        fresh = number % FRESH_EVERY == 0
        connection = await self.connection(fresh)
        method, path, body = ("POST", "/count", key.encode()) if kind == "post" else ("GET", f"/item/{number}", b"")
        try:
            answer = await connection.ask(method, self.route + path, body, close=fresh)
        except BaseException:
            connection.close()
            raise
        if connection.is_reusable:
            self.kept.append(connection)
        else:
            connection.close()
        return answer

    async def connection(self, fresh: bool) -> Connection:
        while not fresh and self.kept:
            kept = self.kept.pop(0)
            if not kept.is_closed_by_server:
                return kept
            kept.close()
        return await Connection.open(self.host, self.port)

    async def stream(self, key: str, count: int, pause: float) -> None:
        start, status, received, problem, text = time.time(), 0, 0, "", b""
        self.write(id=key, kind="opened", start=start, end=start, status=0, error="")
        connection: Connection | None = None
        try:
            connection = await Connection.open(self.host, self.port)
            parts = connection.stream(f"{self.route}/events?count={count}&pause={pause}")
            status = int(await anext(parts))
            async for part in parts:
                text += part
            received = text.count(b"data: ") - text.count(b"data: end")
            if received != count or not text.endswith(b"data: end\n\n"):
                problem = f"{received} of {count} events"
        except (OSError, BrokenAnswer) as error:
            received = text.count(b"data: ")
            problem = f"{type(error).__name__}: {error}"
        finally:
            self.streams -= 1
            if connection is not None:
                connection.close()
        revision = text.split(b" ")[1].decode() if text.count(b" ") > 1 else ""
        end = time.time()
        self.write(id=key, kind="stream", start=start, end=end, status=status, revision=revision, error=problem)


def main() -> None:
    settings = json.loads(sys.argv[1])
    with open(settings["out"], "w", buffering=1) as out:
        asyncio.run(Load(settings, out).run())


if __name__ == "__main__":
    main()
