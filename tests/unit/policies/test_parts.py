"""Bounds over zones and markets: whole, even over zones, and with the base that the spec asks for."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.parts import Parts
from specs.amount import Amount
from specs.placement import Market, Site

ON_DEMAND, SPOT = Market.ON_DEMAND, Market.SPOT


def pair(zone: str, on_demand: int, spot: int) -> dict[Site, dict[str, int]]:
    """Return a zone with cells of both markets."""
    return {
        Site(zone=zone, market=ON_DEMAND): {"Echo": on_demand},
        Site(zone=zone, market=SPOT): {"Echo": spot},
    }


def share(percent: int) -> Amount:
    return Amount(value=percent, is_percent=True)


def divided(parts: Parts, total: int) -> dict[str, int]:
    return {str(site): parts.of(total, site, "Echo") for site in parts.sites}


def test_a_percentage_is_of_the_whole_bound() -> None:
    parts = Parts(sites=pair("a", 1, 3), base=share(25))
    assert divided(parts, 12) == {"a on-demand": 3, "a spot": 9}
    assert divided(parts, 4) == {"a on-demand": 1, "a spot": 3}


def test_a_count_is_the_same_of_any_bound() -> None:
    parts = Parts(sites=pair("a", 1, 2) | pair("b", 1, 2), base=Amount(value=2))
    assert divided(parts, 20) == {"a on-demand": 1, "a spot": 9, "b on-demand": 1, "b spot": 9}


def test_a_zone_with_one_market_has_as_much_as_one_with_two() -> None:
    sites = pair("a", 1, 1) | {Site(zone="b", market=ON_DEMAND): {"Echo": 2}}
    assert divided(Parts(sites=sites, base=share(75)), 12) == {"a on-demand": 3, "a spot": 3, "b on-demand": 6}


def test_where_a_market_is_short_bounds_go_by_what_there_is_room_for() -> None:
    parts = Parts(sites=pair("a", 3, 1), base=share(25))
    assert divided(parts, 12) == {"a on-demand": 9, "a spot": 3}


def test_zones_are_weighed_and_each_cell_keeps_one() -> None:
    sites = {Site(zone=zone): {"Echo": 1} for zone in "abc"}
    assert divided(Parts(sites=sites, weights={"a": 3, "c": 0}), 9) == {"a": 6, "b": 2, "c": 1}
    assert divided(Parts(sites=sites), 2) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("letters", ["a", "ab", "abc", "abcd"])
@given(
    low=st.integers(1, 60),
    more=st.integers(0, 60),
    amount=st.builds(Amount, value=st.integers(0, 100), is_percent=st.booleans()),
    seed=st.data(),
)
def test_bounds_add_up_are_even_over_zones_and_never_cross(
    letters: str, low: int, more: int, amount: Amount, seed: st.DataObject
) -> None:
    sites: dict[Site, dict[str, int]] = {}
    for zone in letters:
        sites |= pair(zone, 1, 1) if seed.draw(st.booleans()) else {Site(zone=zone, market=SPOT): {"Echo": 2}}
    count = sum(one["Echo"] for one in sites.values())
    parts = Parts(sites=sites, base=amount)
    before, after = ({site: parts.of(total, site, "Echo") for site in sites} for total in (low, low + more))
    assert min(before.values()) >= 1
    assert all(after[site] >= before[site] for site in sites if site.market is ON_DEMAND)
    if low < 2 * len(letters):
        return
    assert sum(before.values()) == low
    zones: Counter[str | None] = Counter()
    for site, part in before.items():
        zones[site.zone] += part
    assert max(zones.values()) - min(zones.values()) <= 1
    pairs = [zone for zone in letters if Site(zone=zone, market=ON_DEMAND) in sites]
    if pairs and min(count, amount.round_up(count)) == len(pairs):
        wanted = min(low, amount.round_up(low))
        on_demand = sum(part for site, part in before.items() if site.market is ON_DEMAND)
        assert on_demand == max(len(pairs), min(wanted, sum(zones[zone] - 1 for zone in pairs)))
