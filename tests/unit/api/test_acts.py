from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from reconciler.api.acts import LARGEST_BODY
from reconciler.api.app import make_app
from specs.commands import Command, Verb
from tests.unit.api.backends import MemoryBackend
from tests.unit.api.serving import ACCESS, TOKEN, FixedClock

HOST = "127.0.0.1:8484"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
async def client(backend: MemoryBackend) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=make_app(backend, ACCESS, FixedClock()))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
        yield client


@pytest.mark.parametrize("verb", list(Verb))
async def test_every_verb_is_accepted_with_the_id_of_its_event(
    backend: MemoryBackend, client: httpx.AsyncClient, verb: Verb
) -> None:
    answer = await client.post(
        f"/api/v1/services/chat/{verb.value}", json={"by": "ann", "why": "looks good"}, headers=BEARER
    )
    assert answer.status_code == 202
    assert answer.json() == {"event": 1, "service": "chat", "verb": verb.value}
    assert backend.commands == [Command(verb=verb, service="chat", by="ann", why="looks good")]
    events = (await client.get(answer.headers["location"])).json()["events"]
    assert [event["id"] for event in events] == [1]


async def test_the_fields_of_promote_and_rollback_arrive(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/services/chat/promote", json={"full": True}, headers=BEARER)
    await client.post("/api/v1/services/chat/rollback", json={"to": "3f9a1c2eb771"}, headers=BEARER)
    promote, rollback = backend.commands
    assert (promote.full, promote.by, promote.to) == (True, "operator", None)
    assert (rollback.to, rollback.full) == ("3f9a1c2eb771", False)


async def test_a_refused_command_says_why(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.refusals[Verb.PROMOTE] = "chat has no rollout to promote"
    answer = await client.post("/api/v1/services/chat/promote", json={}, headers=BEARER)
    assert (answer.status_code, answer.json()["detail"]) == (409, "chat has no rollout to promote")


async def test_an_unknown_service_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/services/nobody/pause", json={}, headers=BEARER)
    assert answer.status_code == 404
    assert "nobody" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer tökén".encode("latin-1")},
        {"Cookie": f"token={TOKEN}"},
    ],
)
async def test_without_the_token_nothing_is_done(
    backend: MemoryBackend, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await client.post("/api/v1/services/chat/abort", json={}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert TOKEN not in answer.text
    assert backend.commands == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "https://127.0.0.1:8484"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8484"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example:8484"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": ""},
    ],
)
async def test_no_web_page_can_forge_a_command_even_with_the_token(
    backend: MemoryBackend, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await client.post("/api/v1/services/chat/abort", json={}, headers={**BEARER, **headers})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert backend.commands == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"},
        {"Host": "localhost:1234", "Origin": "http://localhost:1234"},
        {"Host": "[::1]:8484"},
        {"Host": "heliostat.example"},
        {"Host": "HELIOSTAT.example:8484"},
    ],
)
async def test_our_own_page_tunnels_and_listed_names_may(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await client.post("/api/v1/services/chat/pause", json={}, headers={**BEARER, **headers})
    assert answer.status_code == 202


@pytest.mark.parametrize("path", ["/", "/fragment", "/api/v1/status", "/metrics", "/static/page.js"])
async def test_a_rebound_name_cannot_even_read(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path, headers={"Host": "evil.example:8484"})).status_code == 403
    assert (await client.get(path)).status_code == 200


async def test_probes_may_use_any_name(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz", headers={"Host": "whatever"})).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_only_json_is_taken(backend: MemoryBackend, client: httpx.AsyncClient, kind: str) -> None:
    headers = {**BEARER, **({"Content-Type": kind} if kind else {})}
    answer = await client.post("/api/v1/services/chat/pause", content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert backend.commands == []


async def test_a_charset_is_no_reason_to_refuse(client: httpx.AsyncClient) -> None:
    headers = {**BEARER, "Content-Type": "application/json; charset=utf-8"}
    assert (await client.post("/api/v1/services/chat/pause", content=b"", headers=headers)).status_code == 202


async def test_a_huge_body_is_refused_before_it_is_read_whole(
    backend: MemoryBackend, client: httpx.AsyncClient
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * LARGEST_BODY:
            sent += 16384
            yield b" " * 16384

    answer = await client.post("/api/v1/services/chat/pause", content=endless(), headers={**BEARER, **JSON})
    assert answer.status_code == 413
    assert sent <= 2 * LARGEST_BODY
    assert backend.commands == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"pause"',
        b'{"because": "x"}',
        b'{"by": 7}',
        b'{"full": "yes"}',
        b'{"full": true}',
        b'{"to": "3f9a1c2eb771"}',
        b'{"why": "' + b"x" * 501 + b'"}',
        b"\xff\xfe",
        b"[" * 60_000,
    ],
)
async def test_what_a_verb_does_not_understand_is_refused(
    backend: MemoryBackend, client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.post("/api/v1/services/chat/pause", content=body, headers={**BEARER, **JSON})
    assert answer.status_code == 400
    assert answer.json()["detail"]
    assert backend.commands == []


async def test_control_characters_do_not_reach_logs_and_terminals(
    backend: MemoryBackend, client: httpx.AsyncClient
) -> None:
    await client.post("/api/v1/services/chat/pause", json={"by": "a\x1b[31mb", "why": "x\ny"}, headers=BEARER)
    assert (backend.commands[0].by, backend.commands[0].why) == ("a [31mb", "x y")


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/nowhere", "/static/page.css"])
async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers
