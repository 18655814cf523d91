"""What real HAProxy does with a request: which service, which cell, which path, which headers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from specs.routes import FULL, MOST_SHARES
from tests.contract.gateway_front import Front, endpoints, front, service, settings, table
from tests.contract.gateway_replicas import ReplicaDouble, replicas

CHAT = "chat.aaaaaaaaaaaa.-.-.0"
NEXT = "chat.bbbbbbbbbbbb.-.-.0"
DEEP = "deep.aaaaaaaaaaaa.-.-.0"
ROOT = "root.aaaaaaaaaaaa.-.-.0"
DEEP_ROUTE = "/a/b/c/d/e/f/g"


@pytest.fixture
async def chat(tmp_path: Path) -> AsyncIterator[tuple[Front, ReplicaDouble]]:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(table(service("chat", (CHAT, 10000))), one)
        yield gate, one


async def test_the_longest_route_wins_and_its_prefix_becomes_the_private_one(tmp_path: Path) -> None:
    async with (
        front(settings(tmp_path)) as gate,
        replicas((CHAT, "one"), (DEEP, "two"), (ROOT, "three")) as (one, two, three),
    ):
        rows = [
            service("chat", (CHAT, 10000)),
            service("deep", (DEEP, 10000), route=DEEP_ROUTE),
            service("root", (ROOT, 10000), route="/"),
        ]
        await gate.serve(table(*rows), one, two, three)
        expected = {
            "/chat": f"/_/{CHAT}",
            "/chat/": f"/_/{CHAT}/",
            "/chat/x?q=%2Fa&b=c+d": f"/_/{CHAT}/x?q=%2Fa&b=c+d",
            "/chat/x%20y/z": f"/_/{CHAT}/x%20y/z",
            "/chat//x": f"/_/{CHAT}//x",
            "/chat?q": f"/_/{CHAT}?q",
            "/chatter": f"/_/{ROOT}/chatter",
            "/": f"/_/{ROOT}/",
            "/x//y": f"/_/{ROOT}/x//y",
            "/.well-known/x": f"/_/{ROOT}/.well-known/x",
            "/a%2Fb": f"/_/{ROOT}/a%2Fb",
            DEEP_ROUTE: f"/_/{DEEP}",
            f"{DEEP_ROUTE}/x": f"/_/{DEEP}/x",
            "/a/b/c": f"/_/{ROOT}/a/b/c",
        }
        seen = {path: (await gate.get(path))[1]["path"] for path in expected}
        assert seen == expected


async def test_an_unknown_route_is_a_problem_document(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, one = chat
    for path in ("/", "/chatter", "/other/chat"):
        async with gate.session.get(gate.url(path)) as answer:
            assert answer.status == 404
            assert answer.content_type == "application/problem+json"
            assert json.loads(await answer.text())["status"] == 404
    assert one.executed == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/chat/../x", 400),
        ("/chat/..", 400),
        ("/chat/./x", 400),
        ("/chat/%2e%2e/x", 400),
        ("/chat/%2E%2e", 400),
        ("/chat/.%2e/x", 400),
        ("/chat/..%2fx", 400),
        ("/chat%2f..%2fx", 400),
        ("/chat/%2e", 400),
        ("/chat/%5c..%5c", 400),
        ("/chat/%00", 400),
        ("/chat/%zz", 400),
        (f"/_/{CHAT}/x", 404),
        (f"/%5f/{CHAT}/x", 404),
        (f"/%5F%2f{CHAT}", 404),
        (f"//_/{CHAT}/x", 404),
        (f"///_//{CHAT}/x", 404),
        ("/-/healthz", 404),
        ("/-/routes", 404),
        ("/%2d/routes", 404),
        ("//-/routes", 404),
        ("/chat%2fx", 404),
        ("/chat/a.b/..c/d..", 200),
        ("/chat/...", 200),
        ("/chat/_/-/x", 200),
    ],
)
async def test_tricky_paths(chat: tuple[Front, ReplicaDouble], path: str, status: int) -> None:
    gate, one = chat
    assert await gate.status_of(path) == status
    assert len(one.executed) == (1 if status == 200 else 0)


async def test_a_request_in_absolute_form_is_an_ordinary_one(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, one = chat
    assert await gate.status_of("http://test/chat/x?q=1") == 200
    assert one.executed == ["GET /x"]
    assert await gate.status_of(f"http://test/_/{CHAT}/x") == 404
    assert await gate.status_of("http://test/chat/../x") == 400
    assert await gate.status_of("*") == 404


async def test_tricky_paths_do_not_pass_a_root_service_either(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((ROOT, "one")) as (one,):
        await gate.serve(table(service("root", (ROOT, 10000), route="/")), one)
        for path in (f"/_/{ROOT}/x", f"//_/{ROOT}/x", f"/%5f/{ROOT}", "/-/healthz", "/%2d%2fhealthz"):
            assert await gate.status_of(path) == 404, path
        assert one.executed == []
        assert await gate.status_of("//x") == 200


async def test_forwarded_headers(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, one = chat
    await gate.get("/chat/x", headers={"X-Forwarded-Prefix": "/evil", "x-request-id": "mine", "X-Forwarded-Proto": "x"})
    assert one.headers["X-Forwarded-Prefix"] == "/chat"
    assert one.headers["X-Forwarded-For"] == "127.0.0.1"
    assert one.headers["X-Forwarded-Proto"] == "http"
    assert one.headers["x-request-id"] == "mine"
    await gate.get("/chat/x")
    first = one.headers["x-request-id"]
    await gate.get("/chat/x")
    assert len(first) == 36
    assert first != one.headers["x-request-id"]


async def test_a_root_service_gets_no_forwarded_prefix(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((ROOT, "one")) as (one,):
        await gate.serve(table(service("root", (ROOT, 10000), route="/")), one)
        await gate.get("/x", headers={"X-Forwarded-Prefix": "/evil"})
        assert "X-Forwarded-Prefix" not in one.headers


@pytest.mark.parametrize(
    ("route", "given", "expected"),
    [
        ("/chat", "PREFIX/x/", "/chat/x/"),
        ("/chat", "PREFIX", "/chat"),
        ("/chat", "http://host:1/a/PREFIX", "http://host:1/a/PREFIX"),
        ("/chat", "http://127.0.0.1:80PREFIX/x?y=1#z", "http://127.0.0.1:80/chat/x?y=1#z"),
        ("/chat", "https://elsewhere/x", "https://elsewhere/x"),
        ("/chat", "relative/x", "relative/x"),
        ("/", "PREFIX/x", "/x"),
        ("/", "PREFIX", "/"),
        ("/", "PREFIX/", "/"),
        ("/", "PREFIX?x=1", "/?x=1"),
    ],
)
async def test_redirects_lead_to_public_paths(tmp_path: Path, route: str, given: str, expected: str) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(table(service("chat", (CHAT, 10000), route=route)), one)
        path = f"{route.rstrip('/')}/redirect"
        async with gate.session.get(gate.url(path).with_query(to=given), allow_redirects=False) as answer:
            assert answer.headers["Location"] == expected.replace("PREFIX", one.prefix)


@pytest.mark.parametrize(
    ("route", "given", "expected"),
    [
        ("/chat", "a=1; Path=PREFIX; HttpOnly", "a=1; Path=/chat; HttpOnly"),
        ("/chat", "a=1; HttpOnly; path=PREFIX/x", "a=1; HttpOnly; path=/chat/x"),
        ("/chat", "a=1; Path=/; Secure", "a=1; Path=/; Secure"),
        ("/", "a=1; Path=PREFIX/x; Secure", "a=1; Path=/x; Secure"),
        ("/", "a=1; Path=PREFIX", "a=1; Path=/"),
    ],
)
async def test_cookies_are_for_public_paths(tmp_path: Path, route: str, given: str, expected: str) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(table(service("chat", (CHAT, 10000), route=route)), one)
        url = gate.url(f"{route.rstrip('/')}/redirect").with_query(to="/", cookie=given)
        async with gate.session.get(url, allow_redirects=False) as answer:
            assert answer.headers["Set-Cookie"] == expected


async def test_requests_are_shared_by_weight(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(table(service("chat", (CHAT, 8000), (NEXT, 2000))), *doubles)
        cells = Counter([(await gate.get("/chat"))[1]["cell"] for _ in range(1000)])
        # Binomial(1000, 0.2): 99.9% of samples lie within 3.29 standard deviations of 12.65.
        assert 200 - 42 <= cells[NEXT] <= 200 + 42
        assert cells.total() == 1000


async def test_as_many_cells_as_the_rules_hold_share_a_row(tmp_path: Path) -> None:
    count = MOST_SHARES
    names = [f"{'s' * 40}.{number:012d}.us-east-1a.spot.{number}" for number in range(count)]
    shares = [(name, FULL // count) for name in names[:-1]] + [(names[-1], FULL - (count - 1) * (FULL // count))]
    async with front(settings(tmp_path)) as gate, replicas(*((name, f"r{name[41:53]}") for name in names)) as doubles:
        await gate.serve(table(service("s" * 40, *shares, route="/s")), *doubles)
        cells = Counter([(await gate.get("/s"))[1]["cell"] for _ in range(100 * count)])
        assert set(cells) == set(names)
        # Binomial(3200, 1/32): 100 within 4.5 standard deviations of 9.8, for all of them at once.
        assert all(56 <= found <= 144 for found in cells.values()), cells
        for double in doubles[:-1]:
            double.is_draining = True
        await gate.until_up(doubles[-1])
        assert {(await gate.get("/s"))[1]["cell"] for _ in range(20)} == {names[-1]}, "the last one is no fallback"


async def test_a_cell_without_servers_is_skipped_for_the_stable_one_first(tmp_path: Path) -> None:
    third = "chat.cccccccccccc.-.-.0"
    names = ((CHAT, "one"), (NEXT, "two"), (third, "three"))
    async with front(settings(tmp_path)) as gate, replicas(*names) as (one, two, three):
        await gate.serve(table(service("chat", (CHAT, 1), (NEXT, 1), (third, 9998))), one, two, three)
        three.is_draining = True
        await gate.until_up(one, two)
        cells = Counter([(await gate.get("/chat"))[1]["cell"] for _ in range(50)])
        assert cells[CHAT] >= 48, cells
        one.is_draining = True
        await gate.until_up(two)
        assert {(await gate.get("/chat"))[1]["cell"] for _ in range(20)} == {NEXT}


async def test_a_cell_without_weight_is_not_even_a_fallback(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        await gate.serve(table(service("chat", (CHAT, 10000), (NEXT, 0))), one, two)
        one.is_draining = True
        await gate.until_up(two)
        async with gate.session.get(gate.url("/chat")) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert answer.content_type == "application/problem+json"
            assert json.loads(await answer.text())["detail"] == "no replica of chat is ready"
        assert two.executed == []


async def test_unrouted_requests_count_for_the_cell_with_the_most_weight_and_as_nobodys_error(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate:
        await gate.gateway.route(table(service("chat", (CHAT, 4000), (NEXT, 6000)), service("off", (ROOT, 0))))
        assert [(await gate.get("/chat"))[0] for _ in range(7)] == [503] * 7
        assert (await gate.get("/off"))[0] == 503
        traffic = {seen.cell: seen for seen in (await gate.gateway.observe()).traffic}
        assert {cell: seen.unrouted for cell, seen in traffic.items()} == {CHAT: 0, NEXT: 7, ROOT: 1}
        assert all(seen.requests == seen.errors == 0 for seen in traffic.values())


async def test_a_moved_route_is_gone_from_its_old_place(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, one = chat
    await gate.gateway.route(table(service("chat", (CHAT, 10000), route="/talk/now")))
    assert (await gate.get("/chat"))[0] == 404
    assert (await gate.get("/talk/now/x"))[1]["path"] == f"{one.prefix}/x"
    assert (await gate.get("/talk"))[0] == 404


async def test_no_reload_over_many_rollouts_and_services(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, one = chat
    pid = gate.pid
    async with replicas((NEXT, "two"), *((f"svc{n}.aaaaaaaaaaaa.-.-.0", "r") for n in range(10))) as (two, *others):
        for first, second in ((9000, 1000), (5000, 5000), (0, 10000), (10000, 0)) * 5:
            await gate.serve(table(service("chat", (CHAT, first), (NEXT, second))), one, two)
        for count in range(len(others) + 1):
            rows = [service(f"svc{n}", (other.cell, 10000)) for n, other in enumerate(others[:count])]
            await gate.gateway.route(table(service("chat", (CHAT, 10000)), *rows))
        await gate.gateway.refresh(endpoints(one, two, *others), complete=True)
        await gate.until_up(one, *others)
        answers = await asyncio.gather(*(gate.get(f"/svc{n}/x") for n in range(10)))
        assert [answer["cell"] for _, answer in answers] == [other.cell for other in others]
        assert (await gate.gateway.observe()).reloads == 0
        assert gate.pid == pid
