"""Asking a target, before it becomes a server, whether it is the right one.

`GET /-/routes` of a direct-ingress replica answers `{"PREFIX": "APPLICATION"}` of this very replica,
without running user code, and 503 while it drains. `/-/healthz` would not do: ports are reused, and any
replica answers it with 200. Nor would a request under the prefix: it runs user code, and the prefix of
one cell may begin another's. Serve's proxies list all the routes that they know at the same path.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from reconciler.gateway.servers import Verdict
from specs.observed import Endpoint

MAX_ANSWER = 1 << 20


async def probe(endpoint: Endpoint, prefix: str, seconds: float) -> Verdict:
    """Return whether `endpoint` serves `prefix` now."""
    try:
        async with asyncio.timeout(seconds):
            answer = await _get(endpoint, "/-/routes")
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        return Verdict(is_ready=False, detail=str(error) or type(error).__name__)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        return Verdict(is_ready=False, detail=f"answered {b''.join(status).decode(errors='replace') or 'nothing'}")
    try:
        routes = json.loads(_unchunked(body) if _is_chunked(head) else body)
    except ValueError:
        return Verdict(is_ready=False, detail="did not answer with its routes")
    if not isinstance(routes, dict) or prefix not in routes:
        return Verdict(is_ready=False, detail="serves something else")
    return Verdict(is_ready=True)


async def _get(endpoint: Endpoint, path: str) -> bytes:
    reader, writer = await asyncio.open_connection(endpoint.ip, endpoint.port)
    try:
        # HTTP/1.0: the server closes when it is done. Replicas chunk even so.
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {endpoint.ip}\r\n\r\n".encode())
        await writer.drain()
        return await _read_all(reader)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await reader.read(65536):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER:
            break
    return b"".join(chunks)


def _is_chunked(head: bytes) -> bool:
    return any(
        name.strip().lower() == b"transfer-encoding" and value.strip().lower() == b"chunked"
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
    )


def _unchunked(body: bytes) -> bytes:
    """Return a chunked body's content. Raises ValueError when it is not whole."""
    content = b""
    while True:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            return content
        content, body = content + rest[:length], rest[length + 2 :]
