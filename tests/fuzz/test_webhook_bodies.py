"""Whatever is sent to a webhook, it is taken or refused: 202 or 4xx, never a failure of the daemon's."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from hypothesis import strategies as st

from reconciler.api.app import make_app
from reconciler.api.webhooks import Sender, Webhooks
from reconciler.settings import Secret
from tests.fuzz.budget import fuzz
from tests.unit.api.backends import MemoryBackend
from tests.unit.api.serving import ACCESS, FixedClock

SECRET = "a-secret-of-the-fuzzer-0123"

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
pushes = st.fixed_dictionaries(
    {"ref": st.one_of(values, st.sampled_from(["refs/heads/main", "main", "refs/tags/main"]))},
    optional={"object_kind": st.one_of(values, st.just("push")), "x": values},
)
bodies = st.one_of(
    st.binary(max_size=300),
    pushes.map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps(value).encode()),
    st.integers(1, 100_000).map(lambda depth: b"[" * depth),
    st.integers(1, 20_000).map(lambda length: b'{"ref": ' + b"9" * length + b"}"),
)
latin = st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=40)
requests = st.tuples(
    st.sampled_from(list(Sender)),
    bodies,
    st.booleans(),
    st.sampled_from(["application/json", "application/x-www-form-urlencoded", ""]),
    st.one_of(st.sampled_from(["push", "ping", "Push Hook"]), latin),
    latin,
)


@contextmanager
def checking(seen: set[int]) -> Iterator[Callable[[object], None]]:
    """Yield what holds for one webhook after the other; the answers' codes go into `seen`."""
    hooks = Webhooks(secrets=dict.fromkeys(Sender, (Secret(SECRET),)))
    app = make_app(MemoryBackend(), ACCESS, FixedClock(), hooks)

    async def send(sender: Sender, body: bytes, headers: list[tuple[bytes, bytes]]) -> int:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return (await client.post(f"/webhooks/{sender.value}", content=body, headers=headers)).status_code

    with asyncio.Runner() as runner:

        def check(value: object) -> None:
            sender, body, is_signed, media_type, event, noise = value  # type: ignore[misc]
            digest = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            proof = digest if is_signed else noise
            headers = {
                "Content-Type": media_type,
                "X-GitHub-Event": event,
                "X-Hub-Signature-256": proof,
                "X-Signature": proof,
                "X-Gitlab-Token": SECRET if is_signed else noise,
            }
            sent = [(name.encode(), text.encode("latin-1")) for name, text in headers.items()]
            status = runner.run(send(sender, body, sent))
            assert status in (202, 400, 401, 413, 415, 429), status
            assert is_signed or status in (401, 429)
            seen.add(status)

        yield check


def test_any_webhook_is_taken_or_refused() -> None:
    seen: set[int] = set()
    with checking(seen) as check:
        assert fuzz(requests, check) > 20
    assert {202, 400, 401} <= seen
