"""Zones divided between spot nodes and those that stay: the base exact, cells whole, no more movement than needed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.markets import Plot, on_demand
from policies.zones import Ground, spread
from specs.placement import MOST_SITES, Market, Site

SPOT, STAYS = Market.SPOT, Market.ON_DEMAND
BOTH = frozenset(Market)


def plots(*totals: int, markets: Mapping[int, frozenset[Market]] | None = None) -> list[Plot]:
    known = markets or {}
    return [Plot(name=f"z{n}", total={"Echo": t}, markets=known.get(n, BOTH)) for n, t in enumerate(totals)]


def divided(found: list[Plot], base: int, cells: int = MOST_SITES) -> list[int]:
    parts = on_demand(found, {"Echo": base}, cells)
    return [parts[plot.name]["Echo"] for plot in found]


@pytest.mark.parametrize(
    ("totals", "base", "expected"),
    [
        ((6,), 0, [0]),
        ((6,), 2, [2]),
        ((6,), 6, [6]),
        ((1,), 1, [1]),
        ((2, 2, 2), 3, [1, 1, 1]),
        ((2, 2, 2), 2, [1, 1, 0]),
        ((2, 2, 2), 5, [2, 2, 1]),
        ((1, 1, 1), 1, [1, 0, 0]),
        ((1, 1, 1), 2, [1, 1, 0]),
    ],
)
def test_the_base_is_exact_and_over_as_many_zones_as_can_be(
    totals: tuple[int, ...], base: int, expected: list[int]
) -> None:
    assert sorted(divided(plots(*totals), base), reverse=True) == sorted(expected, reverse=True)


def test_a_zone_without_one_market_is_all_in_the_other() -> None:
    only = plots(2, 2, 2, markets={0: frozenset({STAYS}), 1: frozenset({SPOT})})
    assert divided(only, 0) == [2, 0, 0]
    assert divided(only, 3) == [2, 0, 1]
    assert divided(only, 6) == [2, 0, 2], "what has no node on demand is on spot nodes rather than nowhere"


def test_who_is_on_demand_somewhere_already_stays_there() -> None:
    ranked = [Plot(name=f"z{n}", total={"Echo": 2}, markets=BOTH, rank=0 if n == 2 else 1) for n in range(3)]
    assert divided(ranked, 1) == [0, 0, 1]


def test_spot_nodes_without_room_leave_the_rest_to_those_that_stay_and_the_other_way_round() -> None:
    tight = Plot(name="z", total={"Echo": 6}, markets=BOTH, caps={SPOT: {"Echo": 2}})
    assert divided([tight], 1) == [4]
    full = Plot(name="z", total={"Echo": 6}, markets=BOTH, caps={STAYS: {"Echo": 1}})
    assert divided([full], 3) == [1]


@pytest.mark.parametrize(
    ("total", "caps", "base", "cells", "expected"),
    [
        # The base is all of Echo, and there is no room for all of Backend: what is left of it needs an Echo, too.
        ({"Echo": 3, "Backend": 2}, {STAYS: {"Echo": 3, "Backend": 1}}, 3, 8, {"Echo": 2, "Backend": 1}),
        # One Backend has one cell, and only spot nodes have room for all of it.
        ({"Echo": 2, "Backend": 1}, {STAYS: {"Echo": 1, "Backend": 1}}, 1, 8, {"Echo": 0, "Backend": 0}),
        # The same where no more cells are allowed.
        ({"Echo": 4}, {STAYS: {"Echo": 2}}, 1, 1, {"Echo": 0}),
        ({"Echo": 4}, {SPOT: {"Echo": 2}}, 1, 1, {"Echo": 4}),
        # Nobody has room: it waits where the base is.
        ({"Echo": 2, "Backend": 1}, {STAYS: {"Echo": 1}, SPOT: {"Echo": 1}}, 1, 8, {"Echo": 2, "Backend": 1}),
    ],
)
def test_a_market_without_room_is_asked_for_no_more_than_it_has_though_cells_are_whole(
    total: dict[str, int],
    caps: Mapping[Market, Mapping[str, int]],
    base: int,
    cells: int,
    expected: dict[str, int],
) -> None:
    zone = Plot(name="z", total=total, markets=BOTH, caps=caps)
    assert on_demand([zone], {name: min(base, count) for name, count in total.items()}, cells) == {"z": expected}


rooms = st.one_of(st.just(9), st.integers(1, 4))


@given(
    zones=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), rooms, rooms, rooms, rooms), min_size=1, max_size=4),
    parts=st.tuples(st.integers(0, 16), st.integers(0, 16)),
)
def test_where_there_is_a_way_for_every_zone_no_market_is_asked_for_more_than_it_has(
    zones: list[tuple[int, ...]], parts: tuple[int, int]
) -> None:
    found = []
    for number, (a, b, *room) in enumerate(zones):
        total = {"A": a, "B": b}
        caps = {STAYS: {"A": room[0], "B": room[1]}, SPOT: {"A": room[2], "B": room[3]}}
        plot = Plot(name=f"z{number}", total=total, markets=BOTH, caps=caps)
        splits = [{"A": one, "B": two} for one in range(1, a) for two in range(1, b)]
        if any(_fits(plot, way) for way in ({"A": 0, "B": 0}, total, *splits)):
            found.append(plot)
    totals = {name: sum(plot.total[name] for plot in found) for name in "AB"}
    laid = on_demand(found, {name: min(part, totals[name]) for name, part in zip("AB", parts, strict=True)}, 99)
    assert all(_fits(plot, laid[plot.name]) for plot in found), laid


def _fits(plot: Plot, part: Mapping[str, int]) -> bool:
    rest = {name: plot.total[name] - part[name] for name in part}
    return all(counts[name] <= plot.caps[at][name] for at, counts in ((STAYS, part), (SPOT, rest)) for name in counts)


def test_too_few_cells_for_both_markets_keep_the_base() -> None:
    assert divided(plots(6), 1, cells=1) == [6]
    assert divided(plots(6), 0, cells=1) == [0]


def test_of_several_deployments_the_largest_part_decides_so_that_no_cell_lacks_anything() -> None:
    zone = Plot(name="z", total={"Echo": 6, "Backend": 2}, markets=BOTH)
    assert on_demand([zone], {"Echo": 1, "Backend": 1}, 8) == {"z": {"Echo": 3, "Backend": 1}}
    one = Plot(name="z", total={"Echo": 6, "Backend": 1}, markets=BOTH)
    assert on_demand([one], {"Echo": 1, "Backend": 1}, 8) == {"z": {"Echo": 6, "Backend": 1}}


markets = st.sampled_from([BOTH, BOTH, frozenset({SPOT}), frozenset({STAYS})])


@given(total=st.integers(1, 24), zones=st.integers(1, 4), base=st.integers(0, 24))
def test_the_base_of_one_deployment_is_always_exact_over_zones_that_are_even(total: int, zones: int, base: int) -> None:
    sites = [Site(zone=str(n)) for n in range(min(zones, total))]
    counts = spread(total, sites, Ground())
    found = [Plot(name=str(site), total={"Echo": count}, markets=BOTH) for site, count in counts.items()]
    parts = on_demand(found, {"Echo": min(base, total)}, min(MOST_SITES, total))
    assert sum(part["Echo"] for part in parts.values()) == min(base, total)
    assert max(counts.values()) - min(counts.values()) <= 1


@given(
    zones=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4), markets), min_size=1, max_size=5),
    parts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    cells=st.integers(1, MOST_SITES),
)
def test_cells_are_whole_no_more_than_allowed_and_the_base_is_kept_where_it_can_be(
    zones: list[tuple[int, int, frozenset[Market]]], parts: tuple[int, int], cells: int
) -> None:
    found = [Plot(name=f"z{n}", total={"A": a, "B": b}, markets=m) for n, (a, b, m) in enumerate(zones)]
    totals = {name: sum(plot.total[name] for plot in found) for name in "AB"}
    base = {name: min(part, totals[name]) for name, part in zip("AB", parts, strict=True)}
    laid = on_demand(found, base, cells)
    used = 0
    for plot in found:
        stays = laid[plot.name]
        for counts in (stays, {name: plot.total[name] - stays[name] for name in stays}):
            assert all(counts.values()) or not any(counts.values()), "a cell without a replica of each deployment"
            used += any(counts.values())
        assert not any(stays.values()) or STAYS in plot.markets
        assert all(stays[name] == plot.total[name] for name in stays) or SPOT in plot.markets
    assert used <= max(cells, len(found))
    able = {name: sum(plot.total[name] for plot in found if STAYS in plot.markets) for name in "AB"}
    assert all(sum(part[name] for part in laid.values()) >= min(base[name], able[name]) for name in "AB")
