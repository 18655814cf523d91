"""What real HAProxy does in a zone of its own: near replicas first, up to what they take, and the rest by weight."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.gateway.admin import AdminSocket
from specs.routes import CellWeight, RouteTable, ServiceRoute
from tests.contract.gateway_front import Front, endpoints, eventually, front, service, settings, table
from tests.contract.gateway_replicas import ReplicaDouble, replicas

ZONES = ("a", "b", "c")
ROOM = 5
PER_ZONE = 2


def cell(zone: str, revision: str = "aaaaaaaaaaaa") -> str:
    return f"chat.{revision}.{zone}.-.0"


def spread(weights: dict[str, int] | None = None, *, settled: bool = True, **revisions: int) -> RouteTable:
    """Return a table with a cell per zone; `revisions` have parts of 10,000 each, the first all of it by default."""
    found: list[CellWeight] = []
    for revision, total in (revisions or {"aaaaaaaaaaaa": 10_000}).items():
        parts = weights or dict.fromkeys(ZONES, total // len(ZONES)) | {"c": total - 2 * (total // len(ZONES))}
        found += [CellWeight(cell=cell(zone, revision), weight=part, zone=zone) for zone, part in parts.items()]
    return table(ServiceRoute(service="chat", route="/chat", cells=tuple(found), may_prefer_zone=settled))


def doubles(*revisions: str) -> list[tuple[str, str]]:
    return [
        (cell(zone, revision), f"{revision[:2]}{zone}{number}")
        for revision in revisions
        for zone in ZONES
        for number in range(PER_ZONE)
    ]


@asynccontextmanager
async def stage(tmp_path: Path, *revisions: str, **changes: Any) -> AsyncIterator[tuple[Front, list[ReplicaDouble]]]:
    """Run a gateway in zone a with two replicas of five requests in each of three zones."""
    given = settings(tmp_path, **{"zone": "a", **changes})
    async with front(given) as gate, replicas(*doubles(*(revisions or ("aaaaaaaaaaaa",)))) as found:
        for double in found:
            double.zone, double.room = double.cell.split(".")[2], ROOM
        yield gate, found


async def asked(gate: Front, count: int) -> Counter[str]:
    """Send requests one after the other; return how many were answered in which zone."""
    zones: Counter[str] = Counter()
    for _ in range(count):
        status, body = await gate.get("/chat/x")
        assert status == 200
        zones[body["cell"].split(".")[2]] += 1
    return zones


async def held(gate: Front, found: list[ReplicaDouble], count: int) -> tuple[dict[str, int], list[asyncio.Task[int]]]:
    """Begin requests that do not end; return how many there are in each zone, and the requests."""
    before = sum(double.held for double in found)
    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(gate.ask("GET", "/chat/hold")))
        # One after the other: a count of what is held is not exact for those that arrive in the same moment.
        await eventually(lambda wanted=before + number + 1: _holds(found, wanted))
    zones = {zone: sum(one.held for one in found if one.cell.split(".")[2] == zone) for zone in ZONES}
    return zones, tasks


async def _holds(found: list[ReplicaDouble], wanted: int) -> bool:
    return sum(double.held for double in found) == wanted


async def let_go(found: list[ReplicaDouble], tasks: list[asyncio.Task[int]]) -> None:
    for double in found:
        double.release.set()
    assert set(await asyncio.gather(*tasks)) <= {200}
    for double in found:
        double.release.clear()


async def is_told(gate: Front) -> bool:
    """Return whether HAProxy has the row with what the near replicas take."""
    (socket,) = gate.folder.glob("admin.*.sock")
    (routes,) = await AdminSocket(path=socket).ask(["show map ./routes.map"])
    return "|near:" in routes


async def test_a_gateway_stays_in_its_zone_while_there_is_room(tmp_path: Path) -> None:
    async with stage(tmp_path) as (gate, found):
        await gate.serve(spread(), *found)
        await eventually(lambda: is_told(gate))
        assert await asked(gate, 60) == {"a": 60}
        seen = await gate.gateway.observe()
        assert {lane.cell: lane.weight for lane in seen.lanes} == {
            cell("a"): 3333,
            cell("b"): 3333,
            cell("c"): 3334,
        }
        assert seen.reloads == 0


async def test_a_full_zone_spills_over_and_no_replica_has_more_than_it_takes_while_others_have_room(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as (gate, found):
        await gate.serve(spread(), *found)
        await eventually(lambda: is_told(gate))
        full = PER_ZONE * ROOM
        zones, first = await held(gate, found, full)
        assert zones == {"a": full, "b": 0, "c": 0}
        assert [double.held for double in found if double.zone == "a"] == [ROOM] * PER_ZONE
        zones, more = await held(gate, found, full)
        assert zones["a"] == full
        assert min(zones["b"], zones["c"]) > 0
        # All are full: from here on each zone has its third again.
        _, rest = await held(gate, found, full)
        before = {zone: sum(one.held for one in found if one.zone == zone) for zone in ZONES}
        zones, last = await held(gate, found, 60)
        assert all(zones[zone] - before[zone] == pytest.approx(20, abs=13) for zone in ZONES), (before, zones)
        await let_go(found, [*first, *more, *rest, *last])
        await gate.until(lambda seen: all(lane.in_flight == 0 for lane in seen.lanes))
        assert await asked(gate, 20) == {"a": 20}


async def test_the_load_is_even_again_when_all_zones_are_full(tmp_path: Path) -> None:
    async with stage(tmp_path) as (gate, found):
        await gate.serve(spread(), *found)
        await eventually(lambda: is_told(gate))

        async def one() -> None:
            for _ in range(8):
                status, _ = await gate.get("/chat/slow?ms=150")
                assert status == 200

        # 120 at once for 30 places: each zone has some 40 of them, as without a preference.
        await asyncio.gather(*(one() for _ in range(120)))
        shares = {zone: len([1 for d in found if d.zone == zone for _ in d.executed]) / 960 for zone in ZONES}
        assert shares["a"] == pytest.approx(1 / 3, abs=0.1), shares


async def test_while_revisions_share_the_requests_they_go_by_weight_alone(tmp_path: Path) -> None:
    old, new = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
    async with stage(tmp_path, old, new, lanes=32) as (gate, found):
        await gate.serve(spread(settled=False, **{old: 7500, new: 2500}), *found)
        count = 1200
        revisions: Counter[str] = Counter()
        zones: Counter[str] = Counter()
        for _ in range(count):
            _, body = await gate.get("/chat/x")
            revisions[body["cell"].split(".")[1]] += 1
            zones[body["cell"].split(".")[2]] += 1
        # 99.9 % of binomial draws are within 3.29 standard deviations: 49 of 1,200.
        assert abs(revisions[new] - 300) <= 49, revisions
        assert abs(zones["a"] - 400) <= 54, zones


async def test_a_zone_that_is_lost_is_left_and_preferred_again_when_it_is_back(tmp_path: Path) -> None:
    async with stage(tmp_path) as (gate, found):
        await gate.serve(spread(), *found)
        await eventually(lambda: is_told(gate))
        near, far = [d for d in found if d.zone == "a"], [d for d in found if d.zone != "a"]
        ports = [double.port for double in near]
        for double in near:
            await double.stop()
        await gate.until_up(*far)
        assert set(await asked(gate, 40)) == {"b", "c"}
        await gate.until_up(*far)
        for double, port in zip(near, ports, strict=True):
            await double.start(port)
        await gate.until_up(*found)
        assert await asked(gate, 20) == {"a": 20}


async def test_replicas_whose_room_is_not_known_are_not_preferred_until_it_is(tmp_path: Path) -> None:
    async with stage(tmp_path) as (gate, found):
        for double in found:
            double.room = 0
        await gate.serve(spread(), *found)
        assert len(await asked(gate, 60)) == 3
        for double in found:
            double.room = ROOM
        await gate.gateway.refresh(endpoints(*found), complete=True)
        await eventually(lambda: is_told(gate))
        assert await asked(gate, 30) == {"a": 30}
        assert (await gate.gateway.observe()).reloads == 0


async def test_what_leaves_the_zone_is_counted_by_cell_and_as_a_share(tmp_path: Path) -> None:
    plain = "talk.aaaaaaaaaaaa.-.-.0"
    async with stage(tmp_path) as (gate, found), replicas((plain, "one"), (plain, "two")) as (one, two):
        one.zone, two.zone = "a", "b"
        routes = RouteTable(services=(*spread().services, service("talk", (plain, 10_000))))
        await gate.serve(routes, *found, one, two)
        await eventually(lambda: is_told(gate))
        await asked(gate, 40)
        for _ in range(20):
            await gate.get("/talk/x")
        await gate.gateway.observe()
        counted = gate.gateway.crossings()
        assert counted[cell("a")] == {"near": 40, "far": 0, "unknown": 0}
        assert counted[plain] == {"near": len(one.executed), "far": len(two.executed), "unknown": 0}
        shares = gate.gateway.cross_zone()
        assert shares["chat"] == 0.0
        assert shares["talk"] == pytest.approx(len(two.executed) / 20)


async def test_another_daemon_goes_on_with_counts_and_preference(tmp_path: Path) -> None:
    given = settings(tmp_path, zone="a")
    async with replicas(*doubles("aaaaaaaaaaaa")) as found:
        for double in found:
            double.zone, double.room = double.cell.split(".")[2], ROOM
        async with front(given, stop=False) as gate:
            await gate.serve(spread(), *found)
            await eventually(lambda: is_told(gate))
            await asked(gate, 30)
            pid = gate.pid
        async with front(given, stop=False) as gate:
            assert gate.pid == pid
            assert await asked(gate, 10) == {"a": 10}
            await gate.gateway.observe()
            assert gate.gateway.crossings()[cell("a")]["near"] == 40
        # In another zone it is another HAProxy, which prefers that zone from its first request on.
        moved = replace(given, zone="b")
        async with front(moved) as gate:
            assert gate.pid != pid
            assert await asked(gate, 10) == {"b": 10}


async def test_a_gateway_without_a_zone_counts_and_prefers_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path, zone=None) as (gate, found):
        await gate.serve(spread(), *found)
        assert len(await asked(gate, 60)) == 3
        assert gate.gateway.crossings() == {}
        assert gate.gateway.cross_zone() == {}
