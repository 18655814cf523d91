"""Server-sent events: what happens, as it happens, resumable with `Last-Event-ID`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from reconciler.api.backend import Backend
from reconciler.api.documents import document
from reconciler.api.problems import Problem
from reconciler.api.reads import backend_of
from specs.memory import Event
from specs.status import ClusterStatus

SLICE = timedelta(seconds=1)
"""How late a changed status (a replica that became ready, say) is told; events are told at once."""
SILENCE = 15
"""Slices without news after which a comment keeps the connection alive."""
MOST_STREAMS = 100
BATCH = 200


async def stream(request: Request) -> Response:
    """Answer `event: event` for each event and `event: status` when the status became another one."""
    if request.app.state.streams >= MOST_STREAMS:
        raise Problem(503, f"{MOST_STREAMS} streams are open already", {"Retry-After": "5"})
    since = await _start(request)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_counted(request, since), media_type="text/event-stream", headers=headers)


async def _start(request: Request) -> int:
    """Return the id after which to tell: the client's last one, else the newest there is."""
    last = request.headers.get("last-event-id") or request.query_params.get("since", "")
    if last.isascii() and last.isdecimal() and len(last) <= 15:
        return int(last)
    newest = await backend_of(request).events(limit=1)
    return newest[-1].id if newest else 0


async def _counted(request: Request, since: int) -> AsyncIterator[str]:
    request.app.state.streams += 1
    try:
        async for part in _tell(request, since):
            yield part
    finally:
        request.app.state.streams -= 1


async def _tell(request: Request, since: int) -> AsyncIterator[str]:
    backend = backend_of(request)
    closing: asyncio.Event = request.app.state.closing
    service = request.query_params.get("service")
    told, silent = _comparable(backend.status()), 0
    yield "retry: 1000\n\n"
    while not closing.is_set():
        news, since = await _news(backend, since, service)
        status = _comparable(backend.status())
        if status != told:
            told = status
            news += "event: status\ndata: {}\n\n"
        silent = 0 if news else silent + 1
        if silent >= SILENCE:
            news, silent = ": still here\n\n", 0
        if news:
            yield news
        else:
            await backend.wait_events(since, SLICE)


async def _news(backend: Backend, since: int, service: str | None) -> tuple[str, int]:
    """Return the next batch as text, and the id of the newest event seen."""
    # `since=0` asks a store for the newest events, not for the first ones.
    found = [event for event in await backend.events(since=since, limit=BATCH) if event.id > since]
    fitting = [event for event in found if service in (None, event.service)]
    return "".join(_event(event) for event in fitting), max((event.id for event in found), default=since)


def _event(event: Event) -> str:
    return f"id: {event.id}\nevent: event\ndata: {json.dumps(document(event))}\n\n"


def _comparable(status: ClusterStatus) -> ClusterStatus:
    """Return the status without what changes by time alone."""
    return replace(status, observed_at=None, git_age_seconds=None)
