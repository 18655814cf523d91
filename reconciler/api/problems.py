"""Every error is an RFC 9457 problem document: the same shape from us and from the framework."""

from __future__ import annotations

import math
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reconciler.api.backend import Refused, UnknownServiceError
from reconciler.errors import PortError, Retry, Stalled

MEDIA_TYPE = "application/problem+json"


class Problem(HTTPException):
    """A request that cannot be answered as asked; `detail` is a sentence for the caller."""


def problem_of(error: PortError) -> Problem:
    """Return what to answer when something could not be done: later it may, or somebody must act first."""
    return Problem(503 if isinstance(error, Retry) else 409, error.reason)


def problem_response(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Return the problem document for a status code."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail or title}
    return JSONResponse(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)


async def from_http_exception(request: Request, error: Exception) -> Response:
    """Answer our own problems and the framework's 404 and 405."""
    assert isinstance(error, HTTPException)
    detail = error.detail
    if not isinstance(error, Problem):
        detail = {
            404: f"there is nothing at {request.url.path}; the API is below /api/v1",
            405: f"{request.method} is not possible at {request.url.path}",
        }.get(error.status_code, detail)
    return problem_response(error.status_code, detail, dict(error.headers or {}))


async def from_unknown_service(request: Request, error: Exception) -> Response:
    """Answer a name that is neither in Git nor in memory."""
    return problem_response(404, f"there is no service {request.path_params['name']!r}")


async def from_refusal(request: Request, error: Exception) -> Response:
    """Answer a command that is not possible now."""
    return problem_response(409, str(error))


async def from_retry(request: Request, error: Exception) -> Response:
    """Answer while something we need is away for a moment."""
    assert isinstance(error, Retry)
    return problem_response(503, error.reason, {"Retry-After": str(max(1, math.ceil(error.after.total_seconds())))})


async def from_stall(request: Request, error: Exception) -> Response:
    """Answer while a person must act first (a full disk, say)."""
    assert isinstance(error, Stalled)
    return problem_response(503, error.reason)


async def from_bug(request: Request, error: Exception) -> Response:
    """Answer when the daemon itself is at fault; the details are in its log, not in the answer."""
    return problem_response(500, "the daemon failed to answer; its log says why")


HANDLERS = {
    HTTPException: from_http_exception,
    UnknownServiceError: from_unknown_service,
    Refused: from_refusal,
    Retry: from_retry,
    Stalled: from_stall,
    Exception: from_bug,
}
