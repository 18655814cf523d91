from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from reconciler.api import webhooks
from reconciler.api.app import make_app
from reconciler.api.webhooks import LARGEST_WEBHOOK, Sender, Webhooks
from reconciler.ports import Outlook
from reconciler.settings import Secret
from tests.origin import Origin
from tests.unit.api.backends import MemoryBackend
from tests.unit.api.serving import ACCESS, FixedClock
from tests.watched import Watched, spec

OLD, NEW = "an-old-secret-0123456789", "the-new-secret-0123456789"
PUSH = json.dumps({"ref": "refs/heads/main", "after": "0" * 40, "object_kind": "push"}).encode()


class Ears:
    def __init__(self) -> None:
        self.nudges = 0
        self.counted: Counter[tuple[str, str]] = Counter()

    def nudge(self) -> None:
        self.nudges += 1

    def count(self, sender: str, outcome: str) -> None:
        self.counted[sender, outcome] += 1

    def hooks(self) -> Webhooks:
        secrets = dict.fromkeys(Sender, (Secret(OLD), Secret(NEW)))
        return Webhooks(secrets=secrets, branch="main", nudge=self.nudge, count=self.count)


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
async def client(ears: Ears) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(ears.hooks()) as client:
        yield client


def calling(hooks: Webhooks) -> httpx.AsyncClient:
    app = make_app(MemoryBackend(), ACCESS, FixedClock(), hooks)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://heliostat.public.example")


def signed(sender: Sender, body: bytes, secret: str = NEW, event: str = "push") -> dict[str, str]:
    digest = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    proof = {
        Sender.GITHUB: {"X-Hub-Signature-256": digest, "X-GitHub-Event": event},
        Sender.GITLAB: {"X-Gitlab-Token": secret, "X-Gitlab-Event": "Push Hook"},
        Sender.GENERIC: {"X-Signature": digest},
    }[sender]
    return {"Content-Type": "application/json", **proof}


async def post(client: httpx.AsyncClient, sender: Sender, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return await client.post(f"/webhooks/{sender.value}", content=body, headers=headers)


@pytest.mark.parametrize("sender", list(Sender))
@pytest.mark.parametrize("secret", [OLD, NEW])
async def test_a_signed_push_makes_the_daemon_look_under_any_host_name(
    client: httpx.AsyncClient, ears: Ears, sender: Sender, secret: str
) -> None:
    answer = await post(client, sender, PUSH, signed(sender, PUSH, secret))
    assert (answer.status_code, answer.json()) == (202, {"outcome": "accepted"})
    assert ears.nudges == 1
    assert ears.counted == {(sender.value, "accepted"): 1}


@pytest.mark.parametrize("sender", list(Sender))
async def test_without_the_right_signature_nothing_is_even_parsed(
    client: httpx.AsyncClient, ears: Ears, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_parse", lambda *_: pytest.fail("parsed before it was known to be genuine"))
    for headers in (
        {"Content-Type": "application/json"},
        signed(sender, PUSH, "not-the-secret-0123456789"),
        signed(sender, PUSH, ""),
        {**signed(sender, PUSH + b" "), "X-Gitlab-Token": "ü"},
    ):
        answer = await client.post(
            f"/webhooks/{sender.value}",
            content=PUSH,
            headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        )
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
    assert ears.nudges == 0
    assert ears.counted == {(sender.value, "refused"): 4}


async def test_every_secret_is_compared_in_constant_time(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append(expected)
        return real(given, expected)

    monkeypatch.setattr(webhooks.hmac, "compare_digest", compare)
    for secret in (OLD, NEW, "neither-of-them-0123456789"):
        await post(client, Sender.GITHUB, PUSH, signed(Sender.GITHUB, PUSH, secret))
    assert len(compared) == 6


async def test_a_sender_without_a_secret_is_off() -> None:
    ears = Ears()
    hooks = Webhooks(secrets={Sender.GITHUB: (Secret(NEW),)}, nudge=ears.nudge, count=ears.count)
    async with calling(hooks) as client:
        answer = await post(client, Sender.GITLAB, PUSH, signed(Sender.GITLAB, PUSH, ""))
    assert answer.status_code == 404
    assert "--webhook-gitlab-secret-file" in answer.json()["detail"]
    assert (ears.nudges, ears.counted) == (0, {("gitlab", "off"): 1})


@pytest.mark.parametrize(
    ("sender", "body", "event"),
    [
        (Sender.GITHUB, {"zen": "Keep it logically awesome."}, "ping"),
        (Sender.GITHUB, {"ref": "refs/heads/main"}, "pull_request"),
        (Sender.GITHUB, {"ref": "refs/heads/main"}, ""),
        (Sender.GITHUB, {"ref": "refs/heads/other"}, "push"),
        (Sender.GITHUB, {"ref": "refs/tags/main"}, "push"),
        (Sender.GITLAB, {"object_kind": "tag_push", "ref": "refs/heads/main"}, ""),
        (Sender.GITLAB, {"object_kind": ["push"], "ref": "refs/heads/main"}, ""),
        (Sender.GITLAB, {"ref": "refs/heads/main"}, ""),
        (Sender.GENERIC, {"ref": "refs/heads/other"}, ""),
    ],
)
async def test_what_is_no_push_to_the_branch_is_ignored_and_counted(
    client: httpx.AsyncClient, ears: Ears, sender: Sender, body: dict[str, object], event: str
) -> None:
    content = json.dumps(body).encode()
    answer = await post(client, sender, content, signed(sender, content, event=event))
    assert (answer.status_code, answer.json()["outcome"]) == (202, "ignored")
    assert (ears.nudges, ears.counted) == (0, {(sender.value, "ignored"): 1})


async def test_a_script_needs_to_say_nothing(client: httpx.AsyncClient, ears: Ears) -> None:
    for body in (b"", b"{}", b'{"ref": "main"}'):
        assert (await post(client, Sender.GENERIC, body, signed(Sender.GENERIC, body))).status_code == 202
    assert ears.nudges == 3


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"ref": 1}', 400),
        (b'{"ref": ' + b"9" * 10_000 + b"}", 400),
        (b"\xff\xfe", 400),
        (b"payload=%7B%7D", 415),
    ],
)
async def test_signed_nonsense_is_refused(client: httpx.AsyncClient, ears: Ears, body: bytes, status: int) -> None:
    headers = signed(Sender.GITHUB, body)
    if status == 415:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    assert (await post(client, Sender.GITHUB, body, headers)).status_code == status
    assert (ears.nudges, ears.counted) == (0, {("github", "malformed"): 1})


async def test_a_body_above_one_mebibyte_is_not_read(client: httpx.AsyncClient, ears: Ears) -> None:
    fits = b'{"ref": "refs/heads/main", "x": "' + b"x" * (LARGEST_WEBHOOK - 35) + b'"}'
    assert len(fits) == LARGEST_WEBHOOK
    assert (await post(client, Sender.GITHUB, fits, signed(Sender.GITHUB, fits))).status_code == 202
    assert (await post(client, Sender.GITHUB, fits + b" ", signed(Sender.GITHUB, fits + b" "))).status_code == 413
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 64 * LARGEST_WEBHOOK:
            sent += 65_536
            yield b" " * 65_536

    answer = await client.post("/webhooks/github", content=endless(), headers=signed(Sender.GITHUB, b""))
    assert answer.status_code == 413
    assert sent <= LARGEST_WEBHOOK + 2 * 65_536
    assert ears.counted["github", "too_large"] == 2


async def test_a_webhook_is_posted_or_refused(client: httpx.AsyncClient) -> None:
    assert (await client.get("/webhooks/github")).status_code == 405
    assert (await client.post("/webhooks/bitbucket", content=b"{}")).status_code == 404


async def test_a_thousand_pushes_are_a_few_looks_and_the_last_push_is_seen(tmp_path: Path) -> None:
    origin = Origin(tmp_path / "origin")
    origin.commit({"a.yaml": spec("a")})
    watched = Watched(f"file://{origin.folder}", tmp_path / "state", interval=timedelta(hours=1))
    hooks = Webhooks(secrets={Sender.GITHUB: (Secret(NEW),)}, nudge=watched.source.nudge)
    await watched.source.read()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with calling(hooks) as client:
        for number in range(1000):
            sha = origin.commit({"a.yaml": spec("a") + f"# {number}\n"}) if number % 250 == 249 else ""
            assert (await post(client, Sender.GITHUB, PUSH, signed(Sender.GITHUB, PUSH))).status_code == 202
            if number == 0:
                following = asyncio.ensure_future(_follow(watched))
        async with asyncio.timeout(5):
            while (await watched.source.read()).desired.commit.sha != sha:  # type: ignore[union-attr]
                await asyncio.sleep(0.02)
        following.cancel()
    queries = watched.requests["query", "ok"]
    assert 2 <= queries <= loop.time() - begun + 2
    assert watched.requests["fetch", "ok"] <= 5


async def _follow(watched: Watched) -> None:
    outlook = Outlook()
    while True:
        outlook = await watched.source.changed(outlook)
        await watched.source.read()


async def test_a_replayed_webhook_is_a_look_and_no_change(tmp_path: Path) -> None:
    origin = Origin(tmp_path / "origin")
    sha = origin.commit({"a.yaml": spec("a")})
    watched = Watched(f"file://{origin.folder}", tmp_path / "state", interval=timedelta(hours=1))
    before = await watched.source.read()
    assert before.desired is not None
    for _ in range(2):
        watched.source.nudge()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.2):
                await watched.source.changed(before.outlook)
    reading = await watched.source.read()
    assert reading.desired is not None
    assert (reading.desired.commit.sha, reading.problem) == (sha, "")
    assert watched.requests["fetch", "ok"] == 1
