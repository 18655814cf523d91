from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from starlette.applications import Starlette

from reconciler.api.app import make_app
from reconciler.errors import Retry, Stalled
from specs.routes import RouteTable
from tests.unit.api.backends import (
    COMMIT,
    MemoryBackend,
    chat,
    cluster,
    sample_events,
    sample_history,
    sample_nodes,
    sample_routes,
    sample_seats,
)
from tests.unit.api.serving import ACCESS, FixedClock


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def app(backend: MemoryBackend) -> Starlette:
    return make_app(backend, ACCESS, FixedClock())


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8484") as client:
        yield client


async def test_a_service_reads_as_the_contract_says_field_for_field(client: httpx.AsyncClient) -> None:
    document = (await client.get("/api/v1/services/chat")).json()
    expected = {
        "name": "chat",
        "route": "/chat",
        "sync": "OutOfSync",
        "health": "Paused",
        "phase": "Paused",
        "commit": COMMIT,
        "stable": "3f9a1c2eb771",
        "candidate": "b7710de40a12",
        "quarantined": [],
        "step": {"index": 1, "count": 5, "text": "pause 60s", "until": "2026-11-23T10:00:00Z"},
        "weights": {"3f9a1c2eb771": 90, "b7710de40a12": 10},
        "replicas": {"target": 4, "live": 5, "ready": 5, "peak": 5, "serveSurplus": 0},
        "reason": "Pausing",
        "message": "pausing at 10% until 10:00:00 (41 s left)",
    }
    assert {name: document[name] for name in expected} == expected
    assert document["cells"][0] == {
        "name": "chat.3f9a1c2eb771.us-east-1a.-.1",
        "revision": "3f9a1c2eb771",
        "zone": "us-east-1a",
        "market": None,
        "weight": 45,
        "status": "RUNNING",
        "deployments": [{"name": "Chat", "target": 2, "ready": 2}, {"name": "Embed", "target": 1, "ready": 1}],
        "baseline": False,
    }
    assert document["traffic"]["b7710de40a12"] == {
        "requests": 1200,
        "errors": 2,
        "aborted": 0,
        "unrouted": 0,
        "p50": 0.0123,
        "p99": 1.21,
    }
    assert set(document["conditions"][0]) == {"type", "status", "reason", "message", "lastTransitionTime"}


async def test_the_status_tells_the_cluster_and_all_services(client: httpx.AsyncClient) -> None:
    document = (await client.get("/api/v1/status")).json()
    assert document["cluster"] == "prod-us"
    assert document["commit"] == COMMIT
    assert document["observedAt"] == "2026-11-23T09:59:18Z"
    assert document["complete"] is True
    assert document["leader"] is True
    assert [service["name"] for service in document["services"]] == ["chat"]


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/services/chat"])
async def test_who_reads_a_status_is_told_the_bounds_of_each_effect(client: httpx.AsyncClient, path: str) -> None:
    document = (await client.get(path)).json()
    service = document["services"][0] if "services" in document else document
    assert [verdict["low"] for verdict in service["analysis"]["verdicts"]] == [0.5, 0.5]


async def test_keys_that_are_data_keep_their_spelling(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.cluster = cluster(replace(chat(), labels={"cost_center": "a_b"}))
    document = (await client.get("/api/v1/services/chat")).json()
    assert document["labels"] == {"cost_center": "a_b"}


async def test_history_is_newest_first_and_outlives_its_service(
    backend: MemoryBackend, client: httpx.AsyncClient
) -> None:
    backend.entries = sample_history()
    document = (await client.get("/api/v1/services/search/history")).json()
    assert [entry["outcome"] for entry in document["history"]] == ["rolled-back", "promoted"]
    assert document["history"][0]["startedAt"] == "2026-11-23T08:57:19Z"
    assert (await client.get("/api/v1/services/chat/history")).json()["history"] == []


async def test_events_are_filtered_by_service_and_resume_after_an_id(
    backend: MemoryBackend, client: httpx.AsyncClient
) -> None:
    backend.logged = list(sample_events())

    async def ids(path: str) -> list[int]:
        return [event["id"] for event in (await client.get(path)).json()["events"]]

    assert await ids("/api/v1/events") == [1, 2, 3, 4, 5]
    assert await ids("/api/v1/events?since=3") == [4, 5]
    assert await ids("/api/v1/events?limit=2") == [4, 5]
    assert await ids("/api/v1/events?service=search") == [3]
    assert await ids("/api/v1/services/chat/events?since=1") == [2, 4]


async def test_nodes_tell_their_zone_and_resources(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.seen_nodes = sample_nodes()
    head, worker, draining = (await client.get("/api/v1/nodes")).json()["nodes"]
    assert (head["isHead"], head["zone"]) == (True, None)
    assert (worker["zone"], worker["resources"]) == ("us-east-1a", {"CPU": 8, "GPU": 1})
    assert draining["isDraining"] is True


async def test_replicas_name_their_node_and_whose_they_are(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.seen_seats = sample_seats()
    replicas = (await client.get("/api/v1/nodes")).json()["replicas"]
    assert [(one["replica"], one["node"][:1]) for one in replicas][:3] == [("r1", "a"), ("r2", "a"), ("r3", "b")]
    assert (replicas[2]["isMigrating"], replicas[4]["state"], replicas[5]["service"]) == (True, "STARTING", "")


async def test_readiness_follows_the_backend_and_liveness_does_not(
    backend: MemoryBackend, client: httpx.AsyncClient
) -> None:
    assert (await client.get("/readyz")).status_code == 200
    backend.ready = False
    refused = await client.get("/readyz")
    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
    assert (await client.get("/healthz")).status_code == 200


async def test_metrics_are_prometheus_text(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "heliostat_leader 1.0" in answer.text


async def test_routes_answer_not_modified_to_who_knows_them(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.table = sample_routes()
    first = await client.get("/api/v1/routes")
    row = first.json()["services"][0]
    assert row["cells"][1] == {"cell": "chat.b7710de40a12.-.-.0", "weight": 1000, "zone": None}
    assert row["maxRequestSeconds"] == 600
    again = await client.get("/api/v1/routes", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_a_long_poll_answers_as_soon_as_the_routes_change(
    backend: MemoryBackend, client: httpx.AsyncClient
) -> None:
    poll = asyncio.create_task(
        client.get("/api/v1/routes", params={"wait": "30s"}, headers={"If-None-Match": '"t1"'}, timeout=20)
    )
    done, _ = await asyncio.wait([poll], timeout=0.2)
    assert not done
    await backend.set_routes("t2", RouteTable())
    answer = await asyncio.wait_for(poll, 5)
    assert (answer.status_code, answer.headers["etag"]) == (200, '"t2"')


async def test_a_long_poll_without_change_ends_with_not_modified(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/routes", params={"wait": "100ms"}, headers={"If-None-Match": '"t1"'})
    assert answer.status_code == 304


async def test_a_closing_daemon_ends_long_polls(app: Starlette, client: httpx.AsyncClient) -> None:
    app.state.closing.set()
    answer = await asyncio.wait_for(
        client.get("/api/v1/routes", params={"wait": "60s"}, headers={"If-None-Match": '"t1"'}, timeout=20), 5
    )
    assert answer.status_code == 304


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/nowhere", 404),
        ("GET", "/static/nowhere.js", 404),
        ("GET", "/static/../app.py", 404),
        ("GET", "/api/v1/services/nobody", 404),
        ("GET", "/api/v1/services/nobody/history", 404),
        ("GET", "/api/v1/services/nobody/events", 404),
        ("POST", "/api/v1/status", 405),
        ("DELETE", "/api/v1/services/chat", 405),
        ("GET", "/api/v1/services/chat/promote", 405),
        ("GET", "/api/v1/events?since=-1", 400),
        ("GET", "/api/v1/events?since=x", 400),
        ("GET", "/api/v1/events?limit=99999999999999999999", 400),
        ("GET", "/api/v1/routes?wait=soon", 400),
    ],
)
async def test_every_error_is_a_problem_document(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]


@pytest.mark.parametrize("error", [Stalled("the disk is full"), Retry("the file is locked")])
async def test_a_failing_store_is_told_as_unavailable(
    backend: MemoryBackend, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(backend, "events", fail)
    answer = await client.get("/api/v1/events")
    assert (answer.status_code, answer.json()["detail"]) == (503, str(error))


async def test_a_bug_is_told_without_its_details(
    backend: MemoryBackend, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("secret-value")

    monkeypatch.setattr(backend, "status_in_full", fail)
    answer = await client.get("/api/v1/status")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret-value" not in json.dumps(answer.json())
