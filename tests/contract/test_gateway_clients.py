"""Clients that stay on their version, and headers that ask for the candidate, on real HAProxy."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import replace
from http.cookies import SimpleCookie
from pathlib import Path

import aiohttp
import pytest

from reconciler.errors import Retry, Stalled
from specs.routes import HeaderMatch, HeaderRoute, ServiceRoute, Sticky, StickyKind
from tests.contract.gateway_front import Front, eventually, front, service, settings, table
from tests.contract.gateway_replicas import replicas

CHAT = "chat.aaaaaaaaaaaa.-.-.0"
NEXT = "chat.bbbbbbbbbbbb.-.-.0"
COOKIE = Sticky(kind=StickyKind.COOKIE, name="chat-rev")
OVER = Sticky(kind=StickyKind.OVER, name="chat-rev")
HEADER = Sticky(kind=StickyKind.HEADER, name="x-user")
CANARY = HeaderRoute(
    cell=NEXT,
    matches=(
        HeaderMatch(name="x-canary", value="always yes"),
        HeaderMatch(name="user-agent", value="tester/1.", is_prefix=True),
    ),
)


def split(weight: int, sticky: Sticky | None = None, header: HeaderRoute | None = None) -> ServiceRoute:
    """Return the service with `weight` basis points for the candidate."""
    row = service("chat", (CHAT, 10_000 - weight), (NEXT, weight))
    return replace(row, sticky=sticky, header=header)


async def ask(gate: Front, cookie: str | None = None, **headers: str) -> tuple[str, list[str]]:
    """Return the cell that answered and the cookies that were set."""
    sent = {**headers, **({"Cookie": cookie} if cookie is not None else {})}
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(gate.url("/chat/x"), headers=sent) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return (await answer.json())["cell"], answer.headers.getall("Set-Cookie", [])


async def cells_of(gate: Front, ids: list[str], by: Sticky) -> dict[str, str]:
    """Return the cell that answers each client."""
    found = {}
    for client in ids:
        if by.kind is StickyKind.HEADER:
            found[client] = (await ask(gate, **{"X-User": client}))[0]
        else:
            found[client] = (await ask(gate, f"{by.name}={client}"))[0]
    return found


@pytest.mark.parametrize("by", [COOKIE, HEADER], ids=["cookie", "header"])
async def test_clients_stay_on_their_version_and_growth_moves_them_one_way_only(tmp_path: Path, by: Sticky) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(table(split(2000, by)), *doubles)
        ids = [f"client-{number}" for number in range(150)]
        before = await cells_of(gate, ids, by)
        assert before == await cells_of(gate, ids, by)
        assert 10 <= Counter(before.values())[NEXT] <= 55
        await gate.gateway.route(table(split(6000, by)))
        after = await cells_of(gate, ids, by)
        assert {client for client, cell in before.items() if cell == NEXT} <= {c for c, x in after.items() if x == NEXT}
        assert 65 <= Counter(after.values())[NEXT] <= 115


async def test_a_new_client_is_given_an_id_that_keeps_it_where_it_is(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(table(split(5000, COOKIE)), *doubles)
        seen = set()
        for _ in range(12):
            cell, (cookie,) = await ask(gate)
            (morsel,) = SimpleCookie(cookie).values()
            assert (morsel.key, morsel["path"], morsel["httponly"], morsel["samesite"]) == (
                *("chat-rev", "/chat", True, "Lax"),
            )
            assert morsel["max-age"] == ""
            for _ in range(3):
                assert await ask(gate, f"a=b; chat-rev={morsel.value}; c=d") == (cell, [])
            seen.add((cell, morsel.value))
        assert {cell for cell, _ in seen} == {CHAT, NEXT}
        assert len(seen) == 12


async def test_no_cookie_breaks_a_request(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(table(split(5000, COOKIE)), *doubles)
        known = [
            "chat-rev=%00%ff;;=;==",
            "chat-rev=" + "x" * 7000,
            "chat-rev=\"'|:,\\1$(){}[]",
            "chat-rev=one; chat-rev=two",
            "chat-rev=a b\tc",
            "x=1;chat-rev=tight",
        ]
        for cookie in known:
            first, set_first = await ask(gate, cookie)
            assert set_first == []
            assert (await ask(gate, cookie))[0] == first
        assert (await ask(gate, "chat-rev=one; chat-rev=two"))[0] == (await ask(gate, "chat-rev=one"))[0]
        for cookie in [
            "",
            "=",
            ";",
            "chat-rev",
            "chat-rev=",
            "not-chat-rev=1",
            "chat-revs=1",
            "x" * 7500,
            "a=chat-rev=1",
        ]:
            _, given = await ask(gate, cookie)
            assert len(given) == 1, cookie


async def test_afterwards_the_cookie_is_taken_back(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(table(split(0, OVER)), *doubles)
        cell, (gone,) = await ask(gate, "chat-rev=abc")
        (morsel,) = SimpleCookie(gone).values()
        assert (cell, morsel.value, morsel["max-age"], morsel["path"]) == (CHAT, "", "0", "/chat")
        assert await ask(gate) == (CHAT, [])
        assert await ask(gate, "other=1") == (CHAT, [])


async def test_the_version_of_a_client_that_is_down_is_answered_by_the_other(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        await gate.serve(table(split(5000, HEADER, CANARY)), one, two)
        await two.stop()
        await gate.until_up(one)
        assert set((await cells_of(gate, [str(number) for number in range(20)], HEADER)).values()) == {CHAT}
        assert (await ask(gate, **{"X-Canary": "always yes"}))[0] == CHAT


async def test_only_requests_with_the_header_see_a_candidate_without_weight(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(table(split(0, None, CANARY)), *doubles)
        asking = [
            {"X-Canary": "always yes"},
            {"User-Agent": "tester/1.2"},
            {"X-A": "1", "x-CANARY": "always yes", "Z": "2"},
        ]
        others: list[dict[str, str]] = [
            *({}, {"X-Canary": "always yes, no"}, {"X-Canary": "Always yes"}, {"Not-X-Canary": "always yes"}),
            *({"User-Agent": "a tester/1.2"}, {"User-Agent": "tester/12"}, {"X-Other": "x-canary: always yes"}),
        ]
        for headers in asking:
            assert (await ask(gate, **headers))[0] == NEXT, headers
        for headers in others:
            assert (await ask(gate, **headers))[0] == CHAT, headers
        other = replace(CANARY, matches=(HeaderMatch(name="x-canary", value="2"),))
        await gate.gateway.route(table(split(0, None, other)))
        assert [(await ask(gate, **{"X-Canary": value}))[0] for value in ("always yes", "2")] == [CHAT, NEXT]
        await gate.gateway.route(table(split(0)))
        assert (await ask(gate, **{"X-Canary": "2"}))[0] == CHAT
        assert (await gate.gateway.observe()).reloads == 0


async def has_restarted(gate: Front, pid: int) -> bool:
    try:
        await gate.gateway.observe()
    except Retry:
        return False
    return gate.pid != pid


async def test_both_survive_the_death_of_haproxy_and_a_new_daemon(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        ids = [str(number) for number in range(20)]
        async with front(given, stop=False) as gate:
            await gate.serve(table(split(5000, HEADER, CANARY)), *doubles)
            before, pid = await cells_of(gate, ids, HEADER), gate.pid
        async with front(given, stop=False) as gate:
            assert gate.pid == pid
            assert (await ask(gate, **{"X-Canary": "always yes"}))[0] == NEXT
            assert before == await cells_of(gate, ids, HEADER)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: has_restarted(gate, pid))
            await gate.until_up(*doubles)
            assert (await ask(gate, **{"X-Canary": "always yes"}))[0] == NEXT
            assert before == await cells_of(gate, ids, HEADER)
        (given.folder / "gateway.json").unlink()
        async with front(given) as gate:
            await gate.serve(table(split(5000, HEADER, CANARY)), *doubles)
            assert (await ask(gate, **{"X-Canary": "always yes"}))[0] == NEXT
            assert before == await cells_of(gate, ids, HEADER)


@pytest.mark.parametrize(
    "row",
    [
        split(0, Sticky(kind=StickyKind.COOKIE, name="a b")),
        split(0, None, replace(CANARY, matches=(HeaderMatch(name="x", value="a|b"),))),
        split(0, None, replace(CANARY, cell="chat.cccccccccccc.-.-.0")),
    ],
    ids=["cookie name", "header value", "no such cell"],
)
async def test_what_cannot_be_expressed_is_refused_before_anything_changes(tmp_path: Path, row: ServiceRoute) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(table(service("chat", (CHAT, 10_000))), one)
        with pytest.raises(Stalled, match="cannot express"):
            await gate.gateway.route(table(row))
        assert (await ask(gate))[0] == CHAT
