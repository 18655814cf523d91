"""What a probe makes of the answers that replicas really give."""

from __future__ import annotations

import asyncio

import pytest

from reconciler.gateway.probe import probe
from specs.observed import Endpoint

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
ROUTES = b'{"/_/chat":"chat"}'


async def ask(answer: bytes) -> bool:
    """Return whether the probe finds a server ready that gives this answer."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return (await probe(Endpoint(ip="127.0.0.1", port=port, replica="r"), "/_/chat", 5)).is_ready


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"\r\n" + ROUTES,
        # Ray's replicas name no length, and their server then chunks even an HTTP/1.0 answer.
        HEAD + b"transfer-encoding: chunked\r\n\r\n12\r\n" + ROUTES + b"\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n8\r\n" + ROUTES[:8] + b"\r\na\r\n" + ROUTES[8:] + b"\r\n0\r\n\r\n",
    ],
)
async def test_a_replica_that_names_the_prefix_is_ready_however_it_frames_its_answer(answer: bytes) -> None:
    assert await ask(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\nDRAINING",
        HEAD + b'\r\n{"/_/other":"other"}',
        HEAD + b"transfer-encoding: chunked\r\n\r\n12\r\n" + ROUTES[:5],
        HEAD + b"\r\nnot json",
    ],
)
async def test_anything_else_is_not_ready(answer: bytes) -> None:
    assert not await ask(answer)
