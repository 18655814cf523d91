"""Server-sent events and shutdown, on a real uvicorn."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from reconciler.api.app import make_app
from reconciler.api.server import ApiServer
from reconciler.errors import Stalled
from reconciler.settings import Address
from specs.status import Health
from tests.unit.api.backends import MemoryBackend, chat, cluster
from tests.unit.api.serving import ACCESS, FixedClock, Serving, serving

STREAM = "/api/v1/events/stream"


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def server(backend: MemoryBackend) -> Iterator[Serving]:
    with serving(backend) as running:
        yield running


class Reader:
    """Reads one stream, event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()

    def next(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        for line in self._lines:
            name, colon, value = line.partition(":")
            if colon:
                fields[name] = value.strip()
            elif "data" in fields:
                return fields
            else:
                fields = {}
        raise EOFError

    def data(self) -> Any:
        return json.loads(self.next()["data"])


def test_events_arrive_as_they_happen_and_old_ones_do_not(backend: MemoryBackend, server: Serving) -> None:
    server.do(backend.log("Old", "before the stream"))
    with httpx.stream("GET", server.url + STREAM, timeout=10) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        reader = Reader(response)
        _wait_for_listener(backend, server)
        server.do(backend.log("WeightChanged", "10%\n\nto b7710de40a12"))
        event = reader.next()
    assert (event["id"], event["event"]) == ("2", "event")
    assert json.loads(event["data"])["message"] == "10%\n\nto b7710de40a12"


def test_a_stream_resumes_after_the_last_event_that_was_seen(backend: MemoryBackend, server: Serving) -> None:
    for number in range(1, 6):
        server.do(backend.log("Step", str(number)))
    with httpx.stream("GET", server.url + STREAM, headers={"Last-Event-ID": "3"}, timeout=10) as response:
        reader = Reader(response)
        assert [reader.data()["id"], reader.data()["id"]] == [4, 5]
        server.do(backend.log("Step", "6"))
        assert reader.data()["id"] == 6


def test_a_stream_catches_up_with_more_than_one_batch(backend: MemoryBackend, server: Serving) -> None:
    for number in range(1, 451):
        server.do(backend.log("Step", str(number)))
    with httpx.stream("GET", server.url + STREAM, params={"since": 1}, timeout=10) as response:
        reader = Reader(response)
        assert [reader.data()["id"] for _ in range(449)] == list(range(2, 451))


def test_a_stream_of_one_service_tells_only_of_it(backend: MemoryBackend, server: Serving) -> None:
    with httpx.stream("GET", server.url + STREAM, params={"service": "chat", "since": 0}, timeout=10) as response:
        reader = Reader(response)
        server.do(backend.log("Step", "other", service="search"))
        server.do(backend.log("Step", "mine", service="chat"))
        assert reader.data()["message"] == "mine"


def test_a_changed_status_is_told_and_mere_aging_is_not(backend: MemoryBackend, server: Serving) -> None:
    with httpx.stream("GET", server.url + STREAM, timeout=10) as response:
        reader = Reader(response)
        _wait_for_listener(backend, server)
        backend.cluster = replace(backend.cluster, observed_at=None, git_age_seconds=99.0)
        server.do(backend.log("Marker", "after aging"))
        assert reader.next()["event"] == "event"
        server.do(backend.log("Marker", "the second in a row, with nothing in between"))
        assert reader.next()["event"] == "event"
        backend.cluster = cluster(replace(chat(), health=Health.DEGRADED))
        assert reader.next()["event"] == "status"


def test_a_stopping_daemon_ends_streams_instead_of_cutting_them(backend: MemoryBackend) -> None:
    with serving(backend) as server, httpx.stream("GET", server.url + STREAM, timeout=10) as response:
        lines = response.iter_lines()
        assert next(lines) == "retry: 1000"
        started = time.monotonic()
        server.stop()
        list(lines)  # ends without a protocol error
    assert time.monotonic() - started < 2.5


def test_a_taken_port_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Stalled, match=f"127.0.0.1:{port} is in use"):
            ApiServer(Address(host="127.0.0.1", port=port))


async def test_serving_ends_when_it_is_cancelled_and_gives_the_port_back(backend: MemoryBackend) -> None:
    server = ApiServer(Address(host="127.0.0.1", port=0))
    task = asyncio.create_task(server.serve(make_app(backend, ACCESS, FixedClock())))
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{server.address}/healthz", timeout=10)
    assert answer.text == "ok\n"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ApiServer(server.address).close()


def _wait_for_listener(backend: MemoryBackend, server: Serving) -> None:
    """The stream starts at the newest event of the moment when it is opened."""
    deadline = time.monotonic() + 10
    while not server.do(_waiting(backend)):
        assert time.monotonic() < deadline


async def _waiting(backend: MemoryBackend) -> bool:
    await asyncio.sleep(0.01)
    return backend.waiting > 0
