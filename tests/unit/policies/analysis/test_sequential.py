"""The comparison of two rates, held to SciPy's exact distributions."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from policies.analysis.sequential import Stratum, bounds, log_evidence, mixture, ratio_of_rates

ALPHA = 0.005


@st.composite
def strata(draw: st.DrawFn) -> Stratum:
    candidate, stable = draw(st.integers(1, 3000)), draw(st.integers(1, 3000))
    return Stratum(
        candidate=candidate,
        stable=stable,
        candidate_events=draw(st.integers(0, candidate)),
        stable_events=draw(st.integers(0, stable)),
    )


def stratum(candidate: float, stable: float, candidate_events: float, stable_events: float) -> Stratum:
    return Stratum(candidate=candidate, stable=stable, candidate_events=candidate_events, stable_events=stable_events)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.floats(0.02, 0.98))
def test_under_the_null_the_evidence_has_an_expectation_of_one(events: int, share: float) -> None:
    expected = sum(
        stats.binom.pmf(hits, events, share) * math.exp(mixture(hits, ((events, share),))) for hits in range(events + 1)
    )
    assert expected == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_for_equal_revisions_it_is_at_most_one_however_frequent_events_are(
    mine: int, theirs: int, data: st.DataObject
) -> None:
    events = data.draw(st.integers(0, mine + theirs))
    urn = stats.hypergeom(mine + theirs, events, mine)
    expected = sum(
        urn.pmf(hits) * math.exp(log_evidence([stratum(mine, theirs, hits, events - hits)]))
        for hits in range(max(0, events - theirs), min(mine, events) + 1)
    )
    assert expected <= 1 + 1e-9


@given(strata())
def test_evidence_is_never_stronger_than_fishers_exact_test(one: Stratum) -> None:
    table = [
        [one.candidate_events, one.candidate - one.candidate_events],
        [one.stable_events, one.stable - one.stable_events],
    ]
    assert stats.fisher_exact(table, alternative="greater").pvalue <= math.exp(-log_evidence([one])) * (1 + 1e-6)


def test_looking_often_costs_little_of_the_evidence_of_one_look() -> None:
    # 3% against 1% of 3,000 each.
    one = stratum(3000, 3000, 90, 30)
    single = stats.fisher_exact([[90, 2910], [30, 2970]], alternative="greater").pvalue
    assert math.log(1 / single) > log_evidence([one]) > 0.8 * math.log(1 / single)


@given(strata(), st.integers(1, 50))
def test_more_of_the_candidates_events_are_more_evidence(one: Stratum, more: int) -> None:
    worse = stratum(one.candidate, one.stable, one.candidate_events + more, one.stable_events)
    assert log_evidence([worse]) > log_evidence([one])


@given(strata(), st.integers(1, 50))
def test_more_of_the_stable_revisions_events_are_less_evidence(one: Stratum, more: int) -> None:
    better = stratum(one.candidate, one.stable, one.candidate_events, one.stable_events + more)
    assert log_evidence([better]) < log_evidence([one])


@given(st.lists(strata(), min_size=1, max_size=5))
def test_the_order_of_windows_does_not_matter(windows: list[Stratum]) -> None:
    turned = windows[::-1]
    assert log_evidence(turned) == pytest.approx(log_evidence(windows))


@given(strata(), st.integers(2, 5))
def test_windows_of_the_same_share_are_as_good_as_one(one: Stratum, times: int) -> None:
    whole = stratum(one.candidate * times, one.stable * times, one.candidate_events * times, one.stable_events * times)
    assert log_evidence([one] * times) == pytest.approx(log_evidence([whole]))


def test_a_bad_hour_of_both_says_nothing_however_the_weights_moved() -> None:
    # 1% failed at a share of 10%, then 20% at a share of a half: 16.8% of the candidate's against 7.8%.
    parts = [stratum(1000, 9000, 10, 90), stratum(5000, 5000, 1000, 1000)]
    merged = stratum(6000, 14000, 1010, 1090)
    assert ratio_of_rates(parts) == pytest.approx(1)
    assert log_evidence(parts) < 0
    assert log_evidence([merged]) > math.log(1 / ALPHA)


@given(strata())
def test_bounds_hold_the_estimate_and_say_what_the_test_says(one: Stratum) -> None:
    ratio = ratio_of_rates([one])
    low, high = bounds([one], ALPHA)
    if ratio is not None:
        assert low is None or low <= ratio * 1.001
        assert high is None or high >= ratio * 0.999
    rejected = log_evidence([one]) >= math.log(1 / ALPHA)
    assume(abs(log_evidence([one]) - math.log(1 / ALPHA)) > 0.05)
    assert rejected == (low is not None and low >= 1)


def test_nothing_failed_says_nothing_of_the_ratio() -> None:
    none = [stratum(1000, 9000, 0, 0)]
    assert log_evidence(none) <= 1e-12
    assert ratio_of_rates(none) is None
    assert bounds(none, ALPHA) == (None, None)


def test_no_stable_traffic_says_nothing() -> None:
    assert log_evidence([stratum(1000, 0, 900, 0)]) == pytest.approx(0)


def test_a_few_errors_against_none_of_many_become_sure() -> None:
    sure = [errors for errors in range(30) if log_evidence([stratum(100, 900, errors, 0)]) >= math.log(1 / ALPHA)]
    assert sure[0] == 5
    low, high = bounds([stratum(100, 900, 10, 0)], ALPHA)
    assert low is not None
    assert low > 5
    assert high is None


@pytest.mark.parametrize(("mine", "theirs"), [(100, 900), (500, 500), (50, 950)])
def test_bounds_agree_with_the_exact_ones_of_a_single_look_and_are_wider(mine: int, theirs: int) -> None:
    # Given all events, the candidate's are binomial: Clopper and Pearson's bounds are those of a single look.
    one = stratum(mine, theirs, 60, 240)
    exact = stats.binomtest(60, 300).proportion_ci(confidence_level=1 - 2 * ALPHA)
    ratios = [share / (1 - share) * theirs / mine for share in (exact.low, exact.high)]
    low, high = bounds([one], ALPHA)
    assert low is not None
    assert high is not None
    assert low < ratios[0] < ratios[1] < high
    assert low > ratios[0] * 0.8
    assert high < ratios[1] * 1.25


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 300), st.floats(0.001, 0.5))
def test_against_a_fixed_rate_both_directions_keep_their_expectation(trials: int, rate: float) -> None:
    for sign in (1, -1):
        hits = range(trials + 1)
        weights = stats.binom.pmf(hits, trials, rate)
        expected = sum(
            weight * math.exp(mixture(hit, ((trials, rate),), sign))
            for hit, weight in zip(hits, weights, strict=True)
            if weight > 1e-300
        )
        assert expected <= 1 + 1e-6
