"""The load: every answer is counted, and only a 200 is a good one."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from pathlib import Path

from reconciler.demo.guest_book import read_executions
from reconciler.demo.traffic import POST_EVERY, Load, Tally

NO_BOOK = Path("/nonexistent/guests.txt")


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
    load = Load(url, 100.0, NO_BOOK)

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
    load = Load(f"http://127.0.0.1:{port}/", 100.0, NO_BOOK)

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
        load = Load(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", 1.0, NO_BOOK)
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


async def test_every_third_request_is_a_post_whose_executions_the_service_counts(tmp_path: Path) -> None:
    book, asked = tmp_path / "guests.txt", []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        asked.append((method, path))
        if method == "POST":
            size = int(head.lower().partition("content-length:")[2].split()[0])
            guest = (await reader.readexactly(size)).decode()
            with book.open("a") as lines:
                lines.write(f"{guest}\n" * (2 if guest == f"guest {POST_EVERY}" else 1))
        writer.write(plain("200 OK", "Hello"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        load = Load(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", 100.0, book)
        await load_until(load, 3 * POST_EVERY)

    executions = load.executions()
    assert executions.answered == asked.count(("POST", "/guests")) >= 3
    assert asked.count(("GET", "/")) == len(asked) - executions.answered
    assert executions.twice == (f"guest {POST_EVERY}",)
    assert executions.lost == ()


def test_an_answer_to_a_post_that_nobody_executed_is_found(tmp_path: Path) -> None:
    book = tmp_path / "guests.txt"
    book.write_text("guest 3\nguest 9\n")
    assert read_executions(book, {"guest 3", "guest 6"}).lost == ("guest 6",)
    assert read_executions(tmp_path / "none", {"guest 3"}).lost == ("guest 3",)
