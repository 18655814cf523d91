"""Notices that a node is about to be taken away, as a cloud's watcher sends them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reconciler.api.acts import read_notice
from reconciler.api.guard import Access, check_mutation
from reconciler.api.problems import Problem, problem_of
from reconciler.errors import PortError
from reconciler.preemption import Heard, UnknownNodeError


class Preemption(Protocol):
    """What the HTTP side needs of whoever takes notices."""

    async def note(self, node: str, deadline: datetime, by: str, why: str = "") -> Heard:
        """Take a notice. Raises UnknownNodeError, Retry or Stalled."""


async def note(request: Request) -> Response:
    """Accept a notice: 202 with the id of its event, 0 when it was known already."""
    access: Access = request.app.state.access
    grant = check_mutation(request, access)
    given = await read_notice(request)
    preemption: Preemption | None = request.app.state.preemption
    if preemption is None:
        raise Problem(503, "the daemon is starting; try again in a moment")
    node = request.path_params["id"]
    try:
        heard = await preemption.note(node, _instant(given.deadline), given.by or grant.name, given.why)
    except UnknownNodeError as error:
        raise Problem(404, f"no living node of the cluster has the id or address {str(error)[:80]!r}") from error
    except PortError as error:
        raise problem_of(error) from error
    body = {"event": heard.event, "node": heard.notice.node, "deadline": _text(heard.notice.as_told)}
    return JSONResponse(body, status_code=202)


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        in_utc = at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Problem(400, f"deadline is no time: write RFC 3339, such as 2026-11-29T18:00:00Z: {error}") from error
    if at.tzinfo is None:
        raise Problem(400, "deadline has no time zone: write RFC 3339, such as 2026-11-29T18:00:00Z")
    return in_utc


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
