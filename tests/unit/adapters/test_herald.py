"""Others are told of what happens, over real HTTP, and nothing ever waits for them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters import herald as module
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.herald import MOST_WAITING, Form, Herald, Target
from reconciler.planning.announcements import CommitState, commit_reports, slack_document
from reconciler.settings import Secret
from specs.commit_notes import CommitNote
from specs.memory import Event
from specs.reasons import Reason
from specs.status import ClusterStatus, Condition, Sync
from specs.world import World
from tests.builders import NOW, desired, service, world
from tests.local_http import Answering, listening
from tests.unit.api.backends import chat, cluster


@dataclass
class Others:
    """Somebody else's server: what it heard, and what it answers."""

    answers: list[int] = field(default_factory=list)
    heard: list[tuple[str, Mapping[str, str], Any]] = field(default_factory=list)
    is_slow: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def serving(self) -> Iterator[str]:
        others = self

        class Handler(Answering):
            def answer(self) -> None:
                others.heard.append((self.path, dict(self.headers), self.body()))
                if others.is_slow:
                    time.sleep(0.5)
                self.say(others.answers.pop(0) if others.answers else 201, headers=others.headers)

        with listening(Handler) as port:
            yield f"http://127.0.0.1:{port}"

    async def hear(self, number: int) -> None:
        async with asyncio.timeout(5):
            while len(self.heard) < number:
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", timedelta(milliseconds=10))


@asynccontextmanager
async def telling(*targets: Target) -> AsyncIterator[tuple[Herald, Counter[tuple[str, str]]]]:
    counted: Counter[tuple[str, str]] = Counter()
    made = Herald(targets, SystemClock(), "prod", count=lambda form, outcome: counted.update([(form, outcome)]))
    task = asyncio.ensure_future(made.run())
    try:
        yield made, counted
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def event(kind: str = "Promoted", message: str = "v2 takes all requests", **fields: Any) -> Event:
    return Event(at=NOW, service="chat", kind=kind, message=message, revision="v2", **fields)


def seen(sync: Sync = Sync.SYNCED, **fields: Any) -> tuple[ClusterStatus, World]:
    status = replace(chat(), name="chat", sync=sync, **fields)
    made = world(service())
    return replace(cluster(status), complete=True), replace(made, desired=desired(service()))


async def test_a_webhook_is_told_every_event_signed(tmp_path: Path) -> None:
    others = Others()
    with others.serving() as url:
        target = Target(form=Form.WEBHOOK, url=Secret(f"{url}/hooks/s3cret"), secret=Secret("shared"))
        async with telling(target) as (herald, counted):
            herald.take([event(), event("Scaled", "Echo to 3")], *seen())
            await others.hear(2)
            async with asyncio.timeout(5):
                while counted["webhook", "told"] < 2:
                    await asyncio.sleep(0.01)
    path, headers, body = others.heard[0]
    assert path == "/hooks/s3cret"
    assert headers["X-Signature"] == "sha256=" + hmac.new(b"shared", body, hashlib.sha256).hexdigest()
    assert json.loads(body) == {
        "apiVersion": "heliostat.dev/event/v1",
        "cluster": "prod",
        "at": NOW.isoformat(),
        "service": "chat",
        "kind": "Promoted",
        "message": "v2 takes all requests",
        "revision": "v2",
        "by": "heliostat",
        "isWarning": False,
    }
    assert json.loads(others.heard[1][2])["kind"] == "Scaled"


async def test_a_channel_is_told_what_matters_and_nobody_is_mentioned() -> None:
    others = Others()
    with others.serving() as url:
        async with telling(Target(form=Form.SLACK, url=Secret(url))) as (herald, _):
            herald.take([event("Scaled"), event("RolledBack", "<!channel> &", is_warning=True)], *seen())
            await others.hear(1)
    (body,) = [json.loads(body) for _, _, body in others.heard]
    assert body == {"text": ":warning: chat (prod): RolledBack: &lt;!channel&gt; &amp;"}
    assert len(slack_document(event(message="x" * 9000), "prod")["text"]) < 300


@pytest.mark.parametrize(
    ("form", "states", "header"),
    [
        (Form.GITHUB, ("pending", "success"), ("Authorization", "Bearer status-token")),
        (Form.GITLAB, ("running", "success"), ("Private-Token", "status-token")),
    ],
)
async def test_the_host_is_told_how_far_each_service_has_come(
    form: Form, states: tuple[str, str], header: tuple[str, str], tmp_path: Path
) -> None:
    others, token = Others(), tmp_path / "token"
    token.write_text("status-token\n")
    with others.serving() as url:
        target = Target(form=form, url=Secret(f"{url}/repos/team/models"), token_file=token)
        async with telling(target) as (herald, _):
            for sync in (Sync.SYNCED, Sync.OUT_OF_SYNC, Sync.OUT_OF_SYNC):
                herald.take([], *seen(sync))
            await others.hear(1)
            herald.take([], *seen(Sync.SYNCED))
            await others.hear(2)
    assert {path for path, _, _ in others.heard} == {"/repos/team/models/statuses/c0ffee"}
    bodies = [json.loads(body) for _, _, body in others.heard]
    assert tuple(body["state"] for body in bodies) == states
    assert {body.get("context") or body.get("name") for body in bodies} == {"heliostat/prod/chat"}
    headers = {name.title(): value for name, value in others.heard[0][1].items()}
    assert headers[header[0]] == header[1]
    assert "status-token" not in repr(target)


def test_a_commit_fails_with_its_service_and_when_it_is_refused() -> None:
    note = CommitNote(
        commit="bad0", reason=Reason.SIGNATURE_INVALID, message="commit bad0 is unsigned", is_refused=True
    )
    status, made = seen(Sync.OUT_OF_SYNC, quarantined=("v2",), target="v2", candidate=None)
    found = {
        (report.sha, report.service): report.state for report in commit_reports(status, replace(made, notes=(note,)))
    }
    assert found == {("bad0", ""): CommitState.FAILURE, ("c0ffee", "chat"): CommitState.FAILURE}
    wrong = Condition(type="SpecValid", status="False", reason="x", message="y", last_transition_time=NOW)
    status, made = seen(Sync.SYNCED, conditions=(wrong,), quarantined=())
    assert [report.state for report in commit_reports(status, made)] == [CommitState.FAILURE]
    assert commit_reports(replace(status, complete=False), made) == (), "blindness is told to nobody"


async def test_who_does_not_answer_is_asked_again_and_in_the_end_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TRIES", 3)
    others = Others(answers=[503, 429, 201, 500, 500, 500, 404, 201])
    with others.serving() as url:
        async with telling(Target(form=Form.WEBHOOK, url=Secret(url))) as (herald, counted):
            for number in range(4):
                herald.take([event(message=str(number))], *seen())
            await others.hear(8)
            async with asyncio.timeout(5):
                while sum(counted.values()) < 4:
                    await asyncio.sleep(0.01)
    assert counted == {("webhook", "told"): 2, ("webhook", "failed"): 2}
    keys = [headers["Idempotency-Key"] for _, headers, _ in others.heard]
    assert keys[0] == keys[1] == keys[2], "a repetition can be told from a second event"
    assert len(set(keys)) == 4


async def test_a_turn_never_waits_and_the_newest_state_counts() -> None:
    others = Others(is_slow=True)
    with others.serving() as url:
        targets = (Target(form=Form.WEBHOOK, url=Secret(url)), Target(form=Form.GITHUB, url=Secret(url)))
        async with telling(*targets) as (herald, counted):
            begun = time.monotonic()
            for number in range(MOST_WAITING + 50):
                herald.take([event(message=str(number))], *seen((Sync.OUT_OF_SYNC, Sync.SYNCED)[number % 2]))
            assert time.monotonic() - begun < 5
            assert counted["webhook", "dropped"] == 50
            await others.hear(3)
    states = [json.loads(body)["state"] for _, _, body in others.heard if b'"state"' in body]
    assert len(states) <= 2, "states in between are not told"


async def test_redirects_and_metadata_addresses_are_refused_at_once() -> None:
    others = Others(answers=[307], headers={"Location": "http://169.254.169.254/latest"})
    with others.serving() as url:
        targets = (
            Target(form=Form.WEBHOOK, url=Secret(url)),
            Target(form=Form.SLACK, url=Secret("http://169.254.169.254/latest/meta-data")),
        )
        async with telling(*targets) as (herald, counted):
            herald.take([event()], *seen())
            async with asyncio.timeout(5):
                while sum(counted.values()) < 2:
                    await asyncio.sleep(0.01)
    assert counted == {("webhook", "failed"): 1, ("slack", "failed"): 1}
    assert len(others.heard) == 1
