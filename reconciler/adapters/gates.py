"""Gates over HTTP: a question is a POST, and its status is the answer."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any

from reconciler.adapters.outbound import Call, Outbound, Reply, shown
from reconciler.errors import Retry
from reconciler.ports import GateAnswer
from specs.canonical import canonical_json
from specs.effects import PostQuestion

MESSAGE_LIMIT = 300
"""What a gate says goes to status and events, on one line."""

NOT_NOW = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""Refusals that say nothing about the question."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class HttpGates:
    """Implements `reconciler.ports.Gates`."""

    def __init__(self, outbound: Outbound) -> None:
        """`outbound` knows which hosts may be called."""
        self._outbound = outbound

    async def ask(self, question: PostQuestion) -> GateAnswer:
        """POST a question. 2xx is a yes unless its JSON says `"allow": false`; 4xx is a no; nothing else is either."""
        body = {"id": question.key, **json.loads(question.body)}
        reply = await self._outbound.send(
            Call(
                method="POST",
                url=question.url,
                within=question.timeout,
                headers={"Content-Type": "application/json", "Idempotency-Key": question.key},
                content=canonical_json(body).encode(),
            )
        )
        return _answer(reply, shown(question.url))


def _answer(reply: Reply, where: str) -> GateAnswer:
    said = _document(reply.body)
    if 200 <= reply.status < 300:
        if said is None:
            raise Retry(f"{where} answered {reply.status} with something that is not JSON though it begins like it.")
        allow = said.get("allow", True)
        if not isinstance(allow, bool):
            raise Retry(f'{where} answered {reply.status} with an "allow" that is neither true nor false.')
        return GateAnswer(is_yes=allow, message=_message(said, reply))
    if 400 <= reply.status < 500 and reply.status not in NOT_NOW:
        return GateAnswer(is_yes=False, message=_message(said or {}, reply) or f"it answered {reply.status}")
    raise Retry(f"{where} answered {reply.status}.")


def _document(body: bytes) -> dict[str, Any] | None:
    """Return a JSON object; {} for other texts and nothing at all, None for an object that cannot be read."""
    if not body.lstrip().startswith(b"{"):
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _message(said: dict[str, Any], reply: Reply) -> str:
    text = next((str(said[key]) for key in ("message", "reason", "detail", "title") if said.get(key)), "")
    if not said and not reply.body.lstrip().startswith((b"<", b"{")):
        text = reply.body.decode(errors="replace")
    flat = _CONTROL.sub(" ", text).strip()
    return flat if len(flat) <= MESSAGE_LIMIT else flat[: MESSAGE_LIMIT - 3] + "..."
