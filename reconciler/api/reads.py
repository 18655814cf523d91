"""The reading half of the API. Reads need no token: the API listens on loopback unless told otherwise."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from reconciler.api.backend import Backend, UnknownServiceError
from reconciler.api.documents import document, node_document
from reconciler.api.problems import Problem
from specs.durations import parse_duration
from specs.status import ServiceStatus

LONGEST_WAIT = timedelta(seconds=60)
"""Proxies in between cut longer silences."""
MOST_EVENTS = 1_000


def backend_of(request: Request) -> Backend:
    """Return the daemon behind this app."""
    backend: Backend = request.app.state.backend
    return backend


def service_of(request: Request) -> ServiceStatus:
    """Return the status of the service named in the path. Raises UnknownServiceError."""
    name = request.path_params["name"]
    for service in backend_of(request).status_in_full(name).services:
        if service.name == name:
            return service
    raise UnknownServiceError(name)


async def healthz(request: Request) -> Response:
    """Answer that the process is alive."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Answer whether a commit was read and the cluster was seen."""
    if backend_of(request).is_ready():
        return PlainTextResponse("ok\n")
    raise Problem(503, "not ready: no commit read yet, or Ray not seen yet", {"Retry-After": "1"})


async def metrics(request: Request) -> Response:
    """Answer in Prometheus' text format."""
    return Response(backend_of(request).metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def status(request: Request) -> Response:
    """Answer the whole cluster's status."""
    return JSONResponse(document(backend_of(request).status_in_full()))


async def service(request: Request) -> Response:
    """Answer one service's status."""
    return JSONResponse(document(service_of(request)))


async def history(request: Request) -> Response:
    """Answer a service's ended rollouts, newest first. A service that is gone keeps its history."""
    name = request.path_params["name"]
    entries = await backend_of(request).history(name)
    if not entries:
        service_of(request)
    return JSONResponse({"service": name, "history": document(entries)})


async def nodes(request: Request) -> Response:
    """Answer the nodes as last seen, and every replica with the id of its node."""
    backend = backend_of(request)
    found = {"nodes": [node_document(node) for node in backend.nodes()], "replicas": document(backend.seats())}
    return JSONResponse(found)


async def events(request: Request) -> Response:
    """Answer events of the cluster or of one service, oldest first."""
    name = request.path_params.get("name") or request.query_params.get("service")
    limit = min(_count(request, "limit", default=200), MOST_EVENTS)
    found = await backend_of(request).events(service=name, since=_count(request, "since", default=0), limit=limit)
    if not found and "name" in request.path_params:
        service_of(request)
    return JSONResponse({"events": document(found)})


async def routes(request: Request) -> Response:
    """Answer the route table; with `If-None-Match` and `?wait=30s`, as soon as it is another one."""
    backend = backend_of(request)
    known = request.headers.get("if-none-match", "").strip().removeprefix("W/").strip('"')
    await _wait_for_other_routes(request, known)
    etag, table = backend.routes()
    headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache"}
    if known and known == etag:
        return Response(status_code=304, headers=headers)
    return JSONResponse(document(table), headers=headers)


async def _wait_for_other_routes(request: Request, known: str) -> None:
    """Wait in slices of a second, so that the daemon can stop and gone clients do not pile up."""
    backend = backend_of(request)
    closing: asyncio.Event = request.app.state.closing
    left = _wait(request)
    while left > timedelta() and backend.routes()[0] == known and not closing.is_set():
        portion = min(left, timedelta(seconds=1))
        await backend.wait_routes(known, portion)
        left -= portion
        if await request.is_disconnected():
            return


def _wait(request: Request) -> timedelta:
    text = request.query_params.get("wait", "0s")
    try:
        return min(parse_duration(text), LONGEST_WAIT)
    except ValueError as error:
        raise Problem(400, f"wait={text}: {error}") from error


def _count(request: Request, name: str, *, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise Problem(400, f"{name}={text}: write a number that is not negative")
    return int(text)
