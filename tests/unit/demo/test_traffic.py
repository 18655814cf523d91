"""The load: every answer is counted, and only a 200 is a good one."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

from reconciler.demo.traffic import Load, Tally


async def serve_answers(answers: list[bytes]) -> tuple[asyncio.Server, str]:
    """Answer the first requests as told, each on a connection of its own, and then `last`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = answers.pop(0) if answers else b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlast"
        writer.write(body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def plain(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


async def load_until(load: Load, sent: int) -> None:
    task = asyncio.ensure_future(load.run())
    async with asyncio.timeout(10):
        while load.tally.sent < sent:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_answers_are_counted_by_their_first_line_and_failures_by_kind() -> None:
    answers = [plain("200 OK", "Hello from v1\n"), plain("503 Service Unavailable", "no replica"), b"", b"garbage\r\n"]
    server, url = await serve_answers(answers)
    load = Load(url, 100.0)

    async with server:
        await load_until(load, 6)

    assert load.tally.answers["Hello from v1"] == 1
    assert load.tally.failures["status 503"] == 1
    assert load.tally.failures["RemoteProtocolError"] == 2
    assert set(load.tally.answers) == {"Hello from v1", "last"}
    assert load.tally.sent == load.tally.answered + load.tally.failed
    assert load.tally.examples[0] == "status 503: no replica"


async def test_a_closed_port_is_a_failed_request() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    load = Load(f"http://127.0.0.1:{port}/", 100.0)

    await load_until(load, 2)

    assert load.tally.failures["ConnectError"] == load.tally.sent


async def test_ending_the_load_waits_for_the_request_under_way() -> None:
    release = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()
        writer.write(plain("200 OK", "late"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        load = Load(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", 1.0)
        task = asyncio.ensure_future(load.run())
        await asyncio.sleep(0.1)
        task.cancel()
        asyncio.get_running_loop().call_later(0.1, release.set)
        await asyncio.gather(task, return_exceptions=True)

    assert load.tally.answers == Counter({"late": 1})


def test_the_difference_of_two_tallies_is_what_came_between() -> None:
    before = Tally(answers=Counter({"a": 3}))
    after = Tally(answers=Counter({"a": 5, "b": 1}), failures=Counter({"status 500": 2}))

    between = after.since(before)

    assert (between.answers, between.failures) == (Counter({"a": 2, "b": 1}), Counter({"status 500": 2}))
    assert between.sent == 5
