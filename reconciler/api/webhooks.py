"""Webhooks: whoever hosts the repository says that it was pushed to. All that one can do is to make us look.

What it says is never taken for true: the signature is checked before the body is parsed, the branch it names only
decides whether a look is worth it, and the look itself asks the repository. So a webhook that is sent again, or
that somebody recorded, costs one look at most, and looks are spaced by the source.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reconciler.api.problems import Problem
from reconciler.settings import Secret

LARGEST_WEBHOOK = 1024 * 1024
PREFIX = "/webhooks/"


class Sender(StrEnum):
    """Whose way of signing a webhook follows; the last part of its address."""

    GITHUB = "github"
    GITLAB = "gitlab"
    GENERIC = "generic"


@dataclass(frozen=True, kw_only=True)
class Webhooks:
    """What webhooks are checked against, and what is told of them."""

    secrets: Mapping[Sender, tuple[Secret, ...]] = field(default_factory=dict)
    branch: str = "main"
    nudge: Callable[[], None] = lambda: None
    """Look at the repository soon; harmless however often it is called."""
    count: Callable[[str, str], None] = lambda sender, outcome: None


async def receive(sender: Sender, request: Request) -> Response:
    """Answer 202 once a webhook is known to be genuine, whether or not it is about the branch that is followed."""
    hooks: Webhooks = request.app.state.webhooks
    try:
        ignored = await _ignored(sender, request, hooks)
    except Problem as problem:
        hooks.count(sender.value, {401: "refused", 404: "off", 413: "too_large"}.get(problem.status_code, "malformed"))
        raise
    hooks.count(sender.value, "ignored" if ignored else "accepted")
    if ignored:
        return JSONResponse({"outcome": "ignored", "why": ignored}, status_code=202)
    hooks.nudge()
    return JSONResponse({"outcome": "accepted"}, status_code=202)


async def _ignored(sender: Sender, request: Request, hooks: Webhooks) -> str:
    """Return why a genuine webhook leads to nothing, or "". Raises a Problem for one that is not genuine."""
    secrets = hooks.secrets.get(sender, ())
    if not secrets:
        raise Problem(404, f"webhooks of this kind are off: give the daemon --webhook-{sender.value}-secret-file")
    body = await _read(request)
    if not _is_genuine(sender, request, body, secrets):
        raise Problem(401, "the signature is missing or wrong: set the same secret on both sides")
    return _why_not(sender, request, body, f"refs/heads/{hooks.branch}")


async def _read(request: Request) -> bytes:
    too_large = Problem(413, "the body is larger than 1 MiB", {"Connection": "close"})
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > LARGEST_WEBHOOK:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_WEBHOOK:
            raise too_large
    return bytes(body)


def _is_genuine(sender: Sender, request: Request, body: bytes, secrets: tuple[Secret, ...]) -> bool:
    """Compare with every secret in a time that says nothing about how much of it was right."""
    if sender is Sender.GITLAB:
        given = request.headers.get("x-gitlab-token", "").encode("latin-1", "replace")
        expected = [secret.reveal().encode() for secret in secrets]
    else:
        name = "x-hub-signature-256" if sender is Sender.GITHUB else "x-signature"
        given = request.headers.get(name, "").strip().lower().encode("latin-1", "replace")
        expected = [
            b"sha256=" + hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest().encode()
            for secret in secrets
        ]
    return any([hmac.compare_digest(given, one) for one in expected])  # noqa: C419 (all are compared, always)


def _why_not(sender: Sender, request: Request, body: bytes, branch: str) -> str:
    content = _parse(request, body)
    match sender:
        case Sender.GITHUB:
            event, is_push = request.headers.get("x-github-event", ""), "push"
        case Sender.GITLAB:
            event, is_push = content.get("object_kind", ""), "push"
        case Sender.GENERIC:
            event, is_push = "", ""
    if event != is_push:
        return f"only pushes matter, not {str(event)[:40]!r}"
    ref = content.get("ref")
    if ref is None and sender is Sender.GENERIC:
        return ""
    if not isinstance(ref, str):
        raise Problem(400, "a push names its branch in `ref`, such as refs/heads/main")
    return "" if ref in (branch, branch.removeprefix("refs/heads/")) else f"only {branch} is followed"


def _parse(request: Request, body: bytes) -> dict[str, Any]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and body:
        raise Problem(415, "send JSON: choose application/json as the webhook's content type")
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise Problem(400, "the body is not a JSON object")
    return content
