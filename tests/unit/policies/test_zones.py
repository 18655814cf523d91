"""Spreading, without a service in it: even, whole, and no more movement than needed."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.zones import Ground, apportion, kept_ready, spread
from specs.placement import MOST_SITES, Site

A, B, C = Site(zone="a"), Site(zone="b"), Site(zone="c")


@given(total=st.integers(0, 10_000), weights=st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_parts_are_whole_and_less_than_one_off(total: int, weights: list[int]) -> None:
    parts = apportion(total, dict(enumerate(weights)))
    assert sum(parts.values()) == total
    whole = sum(weights) or len(weights)
    for key, weight in enumerate(weights):
        exact = Fraction(total * (weight if sum(weights) else 1), whole)
        assert abs(parts[key] - exact) < 1


@given(
    total=st.integers(1, 20),
    count=st.integers(1, 5),
    candidate=st.integers(0, 12),
    own=st.lists(st.integers(0, 6), min_size=5, max_size=5),
)
def test_two_revisions_together_differ_by_at_most_one(total: int, count: int, candidate: int, own: list[int]) -> None:
    sites = [Site(zone=letter) for letter in "abcde"[:count]]
    first = spread(candidate, sites[:candidate], Ground()) if candidate else {}
    load: Counter[str | None] = Counter({site.zone: part for site, part in first.items()})
    emptiest = sorted(sites, key=lambda site: load[site.zone])[:total]
    parts = spread(total, emptiest, Ground(load=load, own=dict(zip(sites, own, strict=False))))
    assert sum(parts.values()) == total
    assert min(parts.values()) >= 1
    sums = [parts.get(site, 0) + load[site.zone] for site in sites]
    assert max(sums) - min(sums) <= 1


def test_who_is_as_well_off_where_it_is_stays_there() -> None:
    assert spread(4, [A, B, C], Ground(own={B: 2, A: 1, C: 1})) == {A: 1, B: 2, C: 1}


def test_a_zone_without_room_gives_its_share_to_the_others_until_none_has_any() -> None:
    assert spread(6, [A, B, C], Ground(caps={C: 1})) == {A: 3, B: 2, C: 1}
    assert spread(6, [A, B], Ground(caps={A: 1, B: 1})) == {A: 3, B: 3}


@given(
    total=st.integers(1, 40),
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    load=st.lists(st.integers(0, 9), min_size=5, max_size=5),
)
def test_by_weight_nobody_is_left_out_and_nobody_who_has_less_waits(
    total: int, weights: list[int], load: list[int]
) -> None:
    sites = [Site(zone=letter) for letter in "abcde"[: min(total, len(weights))]]
    ground = Ground(
        weights=dict(zip("abcde", weights, strict=False)),
        load={site.zone: count for site, count in zip(sites, load, strict=False)},
    )
    parts = spread(total, sites, ground)
    assert sum(parts.values()) == total
    assert min(parts.values()) >= 1
    sums = {site: parts[site] + ground.load[site.zone] for site in sites}
    liked = {site: weight for site, weight in zip(sites, weights, strict=False) if weight}
    if liked:
        assert all(parts[site] == 1 for site in sites if site not in liked)
        worst = (
            max((2 * sums[site] - 1) / liked[site] for site in liked if parts[site] > 1)
            if any(parts[site] > 1 for site in liked)
            else 0
        )
        assert worst <= min((2 * sums[site] + 1) / weight for site, weight in liked.items())


@pytest.mark.parametrize(
    ("weights", "expected"),
    [({}, [2, 2, 2]), ({"a": 3, "b": 2}, [3, 2, 1]), ({"a": 0}, [1, 3, 2]), ({"a": 0, "b": 0, "c": 0}, [2, 2, 2])],
)
def test_weights_divide_and_what_is_avoided_has_what_it_must(weights: dict[str, int], expected: list[int]) -> None:
    assert list(spread(6, [A, B, C], Ground(weights=weights)).values()) == expected


def test_what_is_avoided_takes_what_has_no_room_elsewhere() -> None:
    assert spread(6, [A, B, C], Ground(weights={"a": 0}, caps={B: 2, C: 1})) == {A: 3, B: 2, C: 1}


@pytest.mark.parametrize(
    ("target", "known", "usable", "kept"),
    [(4, 3, 3, 6), (4, 3, 2, 4), (6, 3, 3, 9), (1, 3, 3, 1), (2, 2, 2, 4), (5, 1, 1, 5), (4, 3, 1, 4), (3, 9, 9, 6)],
)
def test_enough_is_kept_for_the_loss_of_a_zone_and_no_more_is_built_while_one_is_lost(
    target: int, known: int, usable: int, kept: int
) -> None:
    assert kept_ready(target, known, usable) == kept


@given(target=st.integers(1, 60), zones=st.integers(2, MOST_SITES))
def test_losing_any_one_zone_leaves_the_target(target: int, zones: int) -> None:
    sites = [Site(zone=str(number)) for number in range(min(zones, target))]
    parts = spread(kept_ready(target, zones, zones), sites, Ground())
    assert len(parts) < 2 or sum(parts.values()) - max(parts.values()) >= target
