"""Tells others what happened: webhooks, channels, and the host of the repository. Nothing waits for it.

Each target has a queue of its own, worked off in order, with longer and longer pauses while it does not answer. Of a
commit's state only the newest counts; of events, the oldest go when too many wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from reconciler.adapters.outbound import Call, Outbound, shown
from reconciler.errors import PortError, Retry
from reconciler.planning.announcements import (
    CommitReport,
    CommitState,
    commit_reports,
    event_document,
    notable,
    slack_document,
)
from reconciler.ports import Clock
from reconciler.settings import AllowedHost, Secret
from specs.memory import Event
from specs.status import ClusterStatus
from specs.world import World

log = structlog.get_logger("heliostat")

WITHIN = timedelta(seconds=10)
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=1)
MOST_TRIES = 8
"""Some two minutes; what could not be told by then is old."""
MOST_WAITING = 1_000
MOST_COMMITS = 20
"""Whose states are remembered, so that what did not change is not told again."""


class Form(StrEnum):
    """In which words a target is told."""

    WEBHOOK = "webhook"
    SLACK = "slack"
    GITHUB = "github"
    GITLAB = "gitlab"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Whom to tell. The URL is a secret where hooks have one in their path."""

    form: Form
    url: Secret
    secret: Secret | None = None
    """What a webhook's body is signed with."""
    token_file: Path | None = None
    """What opens the API of the repository's host; read at each call."""

    def rule(self) -> AllowedHost:
        """Return the one host that may be called for it."""
        parts = urlsplit(self.url.reveal())
        return AllowedHost(host=(parts.hostname or "").lower(), port=parts.port)


@dataclass(frozen=True, kw_only=True)
class _Message:
    key: str
    """A later message with the same key takes the place of one that waits."""
    path: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)


Count = Callable[[str, str], None]


class Herald:
    """Takes in turns, and tells of them beside the loop."""

    def __init__(
        self,
        targets: Sequence[Target],
        clock: Clock,
        cluster: str,
        *,
        count: Count = lambda form, outcome: None,
        outbound: Outbound | None = None,
    ) -> None:
        """`outbound` is for tests."""
        self._clock = clock
        self._cluster = cluster
        self._outbound = outbound or Outbound([target.rule() for target in targets])
        self._queues = [_Queue(target, self._outbound, clock, count) for target in targets]
        self._told: OrderedDict[str, dict[str, CommitState]] = OrderedDict()

    def take(self, events: Iterable[Event], status: ClusterStatus, world: World) -> None:
        """Take in a turn. Never waits and never fails."""
        if not self._queues:
            return
        happened = tuple(events)
        reports = [report for report in commit_reports(status, world) if self._is_news(report)]
        for queue in self._queues:
            for message in _messages(queue.target.form, happened, reports, self._cluster):
                queue.put(message)

    async def run(self) -> None:
        """Tell until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for queue in self._queues:
                    group.create_task(queue.run())
        finally:
            await self._outbound.aclose()

    def _is_news(self, report: CommitReport) -> bool:
        """Return whether a state differs from what was told; a service that a commit does not move is not told of."""
        known = self._told.setdefault(report.sha, {})
        while len(self._told) > MOST_COMMITS:
            self._told.popitem(last=False)
        before = known.get(report.service, CommitState.SUCCESS)
        known[report.service] = report.state
        return report.state is not before


def _messages(form: Form, events: Sequence[Event], reports: Sequence[CommitReport], cluster: str) -> Iterable[_Message]:
    if form is Form.WEBHOOK:
        documents = [event_document(event, cluster) for event in events]
        return [_Message(key=_digest(document), body=document) for document in documents]
    if form is Form.SLACK:
        lines = [slack_document(event, cluster) for event in notable(events)]
        return [_Message(key=f"{number} {_digest(line)}", body=line) for number, line in enumerate(lines)]
    return [_status(form, report, cluster) for report in reports]


def _status(form: Form, report: CommitReport, cluster: str) -> _Message:
    context = "/".join(filter(None, ("heliostat", cluster, report.service)))
    state = report.state.value
    if form is Form.GITLAB:
        words = {"pending": "running", "success": "success", "failure": "failed"}
        body = {"state": words[state], "name": context, "description": report.description}
    else:
        body = {"state": state, "context": context, "description": report.description}
    return _Message(key=f"{report.sha} {context}", path=f"/statuses/{report.sha}", body=body)


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class _Queue:
    """What one target is still to be told."""

    def __init__(self, target: Target, outbound: Outbound, clock: Clock, count: Count) -> None:
        self.target = target
        self._outbound = outbound
        self._clock = clock
        self._count = count
        self._waiting: OrderedDict[str, _Message] = OrderedDict()
        self._filled = asyncio.Event()

    def put(self, message: _Message) -> None:
        self._waiting[message.key] = message
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popitem(last=False)
            self._count(self.target.form.value, "dropped")
        self._filled.set()

    async def run(self) -> None:
        while True:
            await self._filled.wait()
            while self._waiting:
                await self._tell(self._waiting.popitem(last=False)[1])
            self._filled.clear()

    async def _tell(self, message: _Message) -> None:
        """Try until it is told, refused, replaced by a newer one, or too old."""
        pause = FIRST_PAUSE
        for number in range(1, MOST_TRIES + 1):
            try:
                await self._send(message)
            except Retry as error:
                if number == MOST_TRIES:
                    self._give_up(error)
                    return
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                if message.key in self._waiting:
                    return
            except PortError as error:
                self._give_up(error)
                return
            else:
                self._count(self.target.form.value, "told")
                return

    def _give_up(self, error: PortError) -> None:
        self._count(self.target.form.value, "failed")
        log.warning("somebody could not be told", form=self.target.form.value, reason=error.reason)

    async def _send(self, message: _Message) -> None:
        url, body = self.target.url.reveal(), json.dumps(message.body, sort_keys=True).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": _digest(message.body), **self._proof(body)}
        call = Call(method="POST", url=url.rstrip("/") + message.path if message.path else url, within=WITHIN,
                    headers=headers, content=body)  # fmt: skip
        reply = await self._outbound.send(call)
        if reply.status < 300:
            return
        text = f"{shown(url)} answered {reply.status}"
        is_passing = reply.status >= 500 or reply.status in (408, 425, 429)
        raise Retry(text) if is_passing else PortError(text)

    def _proof(self, body: bytes) -> Mapping[str, str]:
        target = self.target
        if target.secret is not None:
            digest = hmac.new(target.secret.reveal().encode(), body, hashlib.sha256).hexdigest()
            return {"X-Signature": f"sha256={digest}"}
        if target.token_file is None:
            return {}
        try:
            token = target.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Retry(f"cannot read {target.token_file}: {error}") from None
        if target.form is Form.GITLAB:
            return {"PRIVATE-TOKEN": token}
        return {"Authorization": f"Bearer {token}", "X-GitHub-Api-Version": "2022-11-28"}
