"""The life of a lane."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from reconciler.gateway.lanes import LanePool, Phase

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=5)
TEN = timedelta(minutes=10)


def cells(*names: str) -> dict[str, timedelta]:
    return dict.fromkeys(names, TEN)


def held(pool: LanePool) -> dict[str, tuple[str, Phase]]:
    return {lease.lane: (lease.cell, lease.phase) for lease in pool.leases}


def test_each_cell_gets_a_lane_of_its_own_and_keeps_it() -> None:
    pool = LanePool(3)
    assert [lease.lane for lease in pool.lease(cells("a", "b"), NOW)] == ["lane0", "lane1"]
    assert [lease.lane for lease in pool.lease(cells("a", "b", "c"), LATER)] == ["lane2"]
    assert held(pool) == {"lane0": ("a", Phase.LEASED), "lane1": ("b", Phase.LEASED), "lane2": ("c", Phase.LEASED)}
    lease = pool.lane_of("a")
    assert lease is not None
    assert lease.since == NOW


def test_a_lane_drains_cools_and_is_free_for_another_cell() -> None:
    pool = LanePool(1)
    pool.lease(cells("a"), NOW)
    assert [lease.cell for lease in pool.release([], LATER)] == ["a"]
    assert held(pool) == {"lane0": ("a", Phase.DRAINING)}
    assert pool.shortage(["b"]) == 1
    pool.cool("lane0", LATER)
    assert held(pool) == {"lane0": ("a", Phase.COOLING)}
    assert pool.shortage(["b"]) == 1
    pool.free("lane0")
    assert pool.shortage(["b"]) == 0
    assert [lease.cell for lease in pool.lease(cells("b"), LATER)] == ["b"]


def test_a_draining_cell_that_comes_back_keeps_its_lane() -> None:
    pool = LanePool(1)
    pool.lease(cells("a"), NOW)
    pool.release([], NOW)
    assert pool.shortage(["a"]) == 0
    assert pool.lease(cells("a"), LATER) == ()
    assert held(pool) == {"lane0": ("a", Phase.LEASED)}


def test_a_cooling_lane_is_its_cell_s_no_more() -> None:
    pool = LanePool(2)
    pool.lease(cells("a"), NOW)
    pool.release([], NOW)
    pool.cool("lane0", NOW)
    assert pool.lane_of("a") is None
    assert [lease.lane for lease in pool.lease(cells("a"), LATER)] == ["lane1"]


def test_a_new_longest_request_is_taken_over() -> None:
    pool = LanePool(1)
    pool.lease(cells("a"), NOW)
    pool.lease({"a": timedelta(hours=1)}, LATER)
    lease = pool.lane_of("a")
    assert lease is not None
    assert (lease.patience, lease.since) == (timedelta(hours=1), NOW)


def test_the_pool_must_hold_every_lane_in_use() -> None:
    pool = LanePool(12)
    pool.lease(cells(*"abcdefghijkl"), NOW)
    assert LanePool(1, pool.leases).least_size == 12
    assert [lease.lane for lease in pool.leases][-3:] == ["lane9", "lane10", "lane11"]
