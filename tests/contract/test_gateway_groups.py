"""What real HAProxy counts by groups of clients, where clients stay on their version."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from reconciler.errors import Retry
from specs.evidence import CLIENT_GROUPS, Evidence
from specs.observed import GatewaySeen
from specs.routes import RouteTable, Sticky, StickyKind
from tests.contract.gateway_front import Front, client, eventually, front, service, settings, table
from tests.contract.gateway_replicas import replicas

CHAT = "chat.aaaaaaaaaaaa.-.-.0"
NEXT = "chat.bbbbbbbbbbbb.-.-.0"
HEADER = Sticky(kind=StickyKind.HEADER, name="x-user")
COOKIE = Sticky(kind=StickyKind.COOKIE, name="chat-rev")


def split(weight: int, sticky: Sticky | None = HEADER) -> RouteTable:
    return table(replace(service("chat", (CHAT, 10_000 - weight), (NEXT, weight)), sticky=sticky))


async def ask(gate: Front, users: Iterable[str], status: int = 200) -> None:
    async with client() as session:
        for user in users:
            url = gate.url(f"/chat/x?status={status}")
            async with session.get(url, headers={"X-User": user, "Cookie": f"chat-rev={user}"}) as answer:
                assert answer.status == status


def evidence(seen: GatewaySeen) -> dict[str, Evidence]:
    return {entry.cell: entry.evidence for entry in seen.traffic}


def grouped(side: Evidence) -> tuple[int, int]:
    return sum(group.requests for group in side.clients), sum(group.errors for group in side.clients)


async def answered(gate: Front, requests: int) -> dict[str, Evidence]:
    """Return the evidence once all requests have ended."""
    return evidence(await gate.until(lambda seen: sum(one.requests for one in evidence(seen).values()) >= requests))


@pytest.mark.parametrize("by", [HEADER, COOKIE], ids=["header", "cookie"])
async def test_groups_of_clients_add_up_to_all_and_one_client_is_in_one(tmp_path: Path, by: Sticky) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(split(5000, by), *doubles)
        await ask(gate, [f"client-{number}" for number in range(100)])
        await ask(gate, ["bad"] * 7, status=500)
        both = await answered(gate, 107)
        for side in both.values():
            assert len(side.clients) == CLIENT_GROUPS
            assert grouped(side) == (side.requests, side.errors)
        # A second hash: clients of either version are in groups of all kinds.
        assert all(sum(group.requests > 0 for group in side.clients) > 20 for side in both.values())
        assert [group.errors for side in both.values() for group in side.clients if group.errors] == [7]
        await gate.until(lambda seen: sum(one.latency.total for one in evidence(seen).values()) == 107)
        for side in evidence(await gate.gateway.observe()).values():
            assert [group.latency.total for group in side.clients] == [group.requests for group in side.clients]


async def test_a_replica_without_an_answer_is_its_client_s_error(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(split(5000), *doubles)
        async with client() as session:
            for _ in range(3):
                with suppress(aiohttp.ServerDisconnectedError):
                    async with session.post(gate.url("/chat/crash"), headers={"X-User": "bad"}) as answer:
                        assert answer.status == 502
        both = await answered(gate, 3)
        assert max(one.errors for one in both.values()) == 3
        assert max(group.errors for side in both.values() for group in side.clients) == 3


async def test_requests_without_an_id_are_in_any_group(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(split(5000), *doubles)
        for _ in range(60):
            assert (await gate.get("/chat/x"))[0] == 200
        both = await answered(gate, 60)
        assert sum(grouped(side)[0] for side in both.values()) == 60
        assert max(group.requests for side in both.values() for group in side.clients) < 12


async def test_who_does_not_stay_is_not_grouped(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(split(5000, None), *doubles)
        await ask(gate, ["one", "two"])
        assert all(side.clients == () for side in (await answered(gate, 2)).values())


async def test_groups_only_grow_over_a_killed_haproxy_and_a_new_daemon(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        async with front(given, stop=False) as gate:
            await gate.serve(split(5000), *doubles)
            await ask(gate, ["bad"] * 4, status=500)
            before = await answered(gate, 4)
            pid = gate.pid
            os.kill(pid, signal.SIGKILL)

            async def is_back() -> bool:
                with suppress(Retry):
                    await gate.gateway.observe()
                    return gate.pid != pid
                return False

            await eventually(is_back)
            await gate.until_up(*doubles)
            await ask(gate, ["bad"] * 3, status=500)
            await answered(gate, 7)
        await ask(gate, ["bad"] * 2, status=500)  # while no daemon is there
        async with front(given) as gate:
            after = await answered(gate, 9)
            for cell, side in after.items():
                assert grouped(side) == (side.requests, side.errors)
                assert side.covers(replace(before[cell], latency=side.latency)) or not before[cell].requests
            assert sorted(group.errors for side in after.values() for group in side.clients)[-2:] == [0, 9]


async def test_a_lane_that_is_leased_again_begins_without_the_former_cell_s_clients(tmp_path: Path) -> None:
    async with front(settings(tmp_path, lanes=1)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        await gate.serve(table(replace(service("chat", (CHAT, 10_000)), sticky=HEADER)), one)
        await ask(gate, ["bad"] * 5, status=500)
        await gate.gateway.route(table())

        async def is_free() -> bool:
            return not gate.gateway.leases

        await eventually(is_free)
        await gate.serve(table(replace(service("chat", (NEXT, 10_000)), sticky=HEADER)), two)
        await ask(gate, ["bad"])
        (seen,) = (await answered(gate, 1)).values()
        assert grouped(seen) == (1, 0)
