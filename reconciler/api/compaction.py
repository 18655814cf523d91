"""Compaction over HTTP: the plan as it would be now, and the order to carry it out."""

from __future__ import annotations

from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reconciler.api.acts import read_order
from reconciler.api.documents import document
from reconciler.api.guard import Access, check_mutation
from reconciler.api.problems import Problem, problem_of
from reconciler.errors import PortError
from specs.compaction import CompactionStatus


class Compaction(Protocol):
    """What the HTTP side needs of compaction."""

    async def plan(self) -> CompactionStatus:
        """Return what a plan made now says. Raises Retry or Stalled."""

    async def order(self, by: str) -> int:
        """Carry the plan out once; return the id of the event. Raises Retry or Stalled."""


async def show(request: Request) -> Response:
    """Answer with the plan, made now."""
    try:
        return JSONResponse(document(await _compaction(request).plan()))
    except PortError as error:
        raise problem_of(error) from error


async def apply(request: Request) -> Response:
    """Accept the order: 202 with the id of its event."""
    access: Access = request.app.state.access
    check_mutation(request, access)
    by = await read_order(request)
    try:
        event = await _compaction(request).order(by)
    except PortError as error:
        raise problem_of(error) from error
    return JSONResponse({"event": event}, status_code=202)


def _compaction(request: Request) -> Compaction:
    compaction: Compaction | None = request.app.state.compaction
    if compaction is None:
        raise Problem(503, "the daemon is starting; try again in a moment")
    return compaction
