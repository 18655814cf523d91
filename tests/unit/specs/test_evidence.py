"""Counts add up over cells, subtract into windows, and tell a reset."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs.evidence import BUCKETS_PER_OCTAVE, LONGEST, OVERFLOW, SMALLEST, Evidence, LatencyCounts, bound_of, bucket_of
from tests.bench.rollout_traffic import buckets_of
from tests.unit.policies.analysis.evidence import evidences, histograms


@given(st.floats(0, 3e6))
def test_a_latency_lies_between_its_buckets_bounds(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert seconds <= bound_of(bucket) * (1 + 1e-9)
    assert bucket == 0 or seconds > bound_of(bucket - 1)


@pytest.mark.parametrize("bucket", range(0, OVERFLOW, 37))
def test_a_bound_lies_in_the_bucket_that_it_bounds(bucket: int) -> None:
    assert bucket_of(bound_of(bucket)) == bucket


def test_the_scale_reaches_from_a_tenth_of_a_millisecond_to_the_longest_request() -> None:
    assert bucket_of(0) == bucket_of(SMALLEST) == 0
    assert bucket_of(LONGEST.total_seconds()) < OVERFLOW
    assert bucket_of(LONGEST.total_seconds() * 2) == OVERFLOW
    assert math.isinf(bound_of(OVERFLOW))
    assert bound_of(BUCKETS_PER_OCTAVE) == pytest.approx(2 * SMALLEST)


@given(st.lists(st.floats(0, 3e6), max_size=50))
def test_simulated_latencies_fall_into_the_same_buckets(seconds: list[float]) -> None:
    assert buckets_of(np.array(seconds, dtype=float)).tolist() == [bucket_of(one) for one in seconds]


@given(histograms, histograms, histograms)
def test_histograms_add_up_in_any_order(one: LatencyCounts, two: LatencyCounts, three: LatencyCounts) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert (one + two).total == one.total + two.total
    assert one + LatencyCounts() == one


@settings(max_examples=40, deadline=None)
@given(evidences(groups=2), evidences(groups=2))
def test_what_was_added_can_be_taken_away(one: Evidence, two: Evidence) -> None:
    assert one + two == two + one
    assert (one + two) - two == one
    assert (one + two).covers(one)
    assert one - one == Evidence(clients=(Evidence(), Evidence()))


@settings(max_examples=40, deadline=None)
@given(evidences(groups=2))
def test_nothing_changes_nothing(one: Evidence) -> None:
    assert one + Evidence() == Evidence() + one == one
    assert one - Evidence() == one


@settings(max_examples=40, deadline=None)
@given(evidences(), evidences())
def test_a_counter_that_fell_is_a_reset(earlier: Evidence, later: Evidence) -> None:
    if later.covers(earlier):
        assert earlier + (later - earlier) == later
    else:
        with pytest.raises(ValueError, match="reset in between"):
            later - earlier


def test_a_reset_shows_in_every_counter() -> None:
    earlier = Evidence(
        requests=5, errors=1, aborted=1, unrouted=1, latency=LatencyCounts.of({7: 3}), clients=(Evidence(requests=5),)
    )
    for fallen in (
        Evidence(requests=4, errors=1, aborted=1, unrouted=1, latency=earlier.latency, clients=earlier.clients),
        Evidence(requests=5, errors=0, aborted=1, unrouted=1, latency=earlier.latency, clients=earlier.clients),
        Evidence(requests=5, errors=1, aborted=0, unrouted=1, latency=earlier.latency, clients=earlier.clients),
        Evidence(requests=5, errors=1, aborted=1, unrouted=0, latency=earlier.latency, clients=earlier.clients),
        Evidence(
            requests=5, errors=1, aborted=1, unrouted=1, latency=LatencyCounts.of({7: 2, 8: 9}), clients=earlier.clients
        ),
        Evidence(requests=5, errors=1, aborted=1, unrouted=1, latency=earlier.latency, clients=(Evidence(requests=4),)),
        Evidence(requests=5, errors=1, aborted=1, unrouted=1, latency=earlier.latency),
    ):
        assert not fallen.covers(earlier), fallen


def test_requests_given_up_by_the_client_are_no_successes() -> None:
    assert Evidence(requests=10, errors=2, aborted=3).judged == 7
    assert Evidence(requests=10, errors=8, aborted=3).judged == 8


def test_groups_that_only_one_side_has_are_dropped() -> None:
    grouped = Evidence(requests=3, clients=(Evidence(requests=3), Evidence()))
    assert (grouped + Evidence(requests=2)).clients == ()


def test_a_histogram_holds_no_negative_count() -> None:
    with pytest.raises(ValueError, match="reset in between"):
        LatencyCounts.of({3: 1}) - LatencyCounts.of({3: 2})
    with pytest.raises(ValueError, match="fewer than no"):
        LatencyCounts.of({3: -1})
