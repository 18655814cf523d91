"""The acting half of the API: one POST per verb."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reconciler.api.guard import Access, check_mutation
from reconciler.api.problems import Problem
from reconciler.api.reads import backend_of
from specs.commands import Command, Verb

LARGEST_BODY = 64 * 1024
LONGEST_BY = 100
LONGEST_WHY = 500
FIELDS: Mapping[str, type] = {"by": str, "why": str, "to": str, "full": bool}


async def act(verb: Verb, request: Request) -> Response:
    """Accept a command: 202 with the id of its event. The daemon acts on it in its next tick."""
    access: Access = request.app.state.access
    grant = check_mutation(request, access)
    _check_is_json(request)
    command = _read_command(verb, request.path_params["name"], await _read_body(request), grant.name)
    event = await backend_of(request).command(command)
    body = {"event": event, "service": command.service, "verb": command.verb.value}
    return JSONResponse(body, status_code=202, headers={"Location": f"/api/v1/events?since={max(0, event - 1)}"})


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What a notice of a node says."""

    deadline: str
    by: str = ""
    why: str = ""


async def read_notice(request: Request) -> Notice:
    """Return a notice: when the node goes, and perhaps who says so and why."""
    _check_is_json(request)
    given = _read_fields(await _read_body(request), {"deadline": str, "by": str, "why": str})
    if "deadline" not in given:
        raise Problem(400, "deadline is missing: write when the node goes, such as 2026-11-29T18:00:00Z")
    return Notice(
        deadline=given["deadline"],
        by=_line(given.get("by", ""), "by", LONGEST_BY),
        why=_line(given.get("why", ""), "why", LONGEST_WHY),
    )


async def read_order(request: Request) -> str:
    """Return who gives an order that needs nothing but a name."""
    _check_is_json(request)
    given = _read_fields(await _read_body(request))
    if extra := sorted(given.keys() - {"by", "why"}):
        raise Problem(400, f"unknown field {extra[0]!r}; known are by, why")
    return _line(given.get("by", ""), "by", LONGEST_BY) or "operator"


def _check_is_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, "send JSON, with Content-Type: application/json")


async def _read_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise Problem(413, f"the body is larger than {LARGEST_BODY // 1024} KiB", {"Connection": "close"})
    return body


def _read_command(verb: Verb, service: str, body: bytes, bearer: str) -> Command:
    given = _read_fields(body)
    if "to" in given and verb is not Verb.ROLLBACK:
        raise Problem(400, f"`to` belongs to rollback, not to {verb.value}")
    if given.get("full") and verb is not Verb.PROMOTE:
        raise Problem(400, f"`full` belongs to promote, not to {verb.value}")
    return Command(
        verb=verb,
        service=service,
        by=_line(given.get("by", ""), "by", LONGEST_BY) or bearer,
        why=_line(given.get("why", ""), "why", LONGEST_WHY),
        to=_line(given["to"], "to", 64) if "to" in given else None,
        full=given.get("full", False),
    )


def _read_fields(body: bytes, fields: Mapping[str, type] = FIELDS) -> dict[str, Any]:
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise Problem(400, 'send an object, such as {"by": "ann", "why": "looks good"}')
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in fields:
            raise Problem(400, f"unknown field {name!r}; known are {', '.join(fields)}")
        if not isinstance(value, fields[name]):
            raise Problem(400, f"{name!r} must be a {'yes or no' if fields[name] is bool else 'text'}")
    return given


def _line(text: str, name: str, longest: int) -> str:
    """Return the text as one printable line: it ends up in logs and on terminals."""
    if len(text) > longest:
        raise Problem(400, f"{name!r} is longer than {longest} characters")
    return "".join(char if char.isprintable() else " " for char in text).strip()
