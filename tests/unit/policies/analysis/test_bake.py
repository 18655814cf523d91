"""After 100%: what is surely worse than what the revision before had been, and how rarely that is said wrongly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from policies.analysis.bake import highest_rate, judge_bake
from specs.analysis import AnalysisSettings, Latency, Measure, Outcome, SuccessRate, Verdict
from specs.evidence import Evidence, LatencyCounts
from tests.bench.rollout_traffic import buckets_of

ERRORS = AnalysisSettings(success_rate=SuccessRate(), latency=None)
SLOW = AnalysisSettings(success_rate=None, latency=Latency())


def answered(requests: int, errors: int = 0, *, slower: float = 1.0, seed: int = 0) -> Evidence:
    seconds = slower * 0.05 * np.exp(0.5 * np.random.default_rng(seed).standard_normal(requests))
    counts = np.bincount(buckets_of(seconds))
    latency = LatencyCounts.of({bucket: int(count) for bucket, count in enumerate(counts)})
    return Evidence(requests=requests, errors=errors, latency=latency)


def verdict(before: Evidence, now: Evidence, settings: AnalysisSettings) -> Verdict:
    (found,) = judge_bake(before, now, settings).verdicts
    return found


@pytest.mark.parametrize(("events", "trials"), [(0, 100), (3, 1_000), (50, 5_000), (999, 1_000)])
def test_a_highest_rate_is_no_lower_than_the_exact_limit(events: int, trials: int) -> None:
    exact = stats.beta.ppf(1 - 0.0025, events + 1, trials - events)
    assert exact <= highest_rate(events, trials, 0.0025) <= 3 * exact + 0.01


def test_nothing_is_known_of_a_rate_without_trials() -> None:
    assert highest_rate(0, 0, 0.01) == 1


def test_many_more_errors_than_before_fail() -> None:
    found = verdict(answered(5_000, 25), answered(2_000, 100), ERRORS)
    assert found.outcome is Outcome.FAILING
    assert found.measure is Measure.SUCCESS_RATE
    assert "5% of 2,000 requests since 100% failed, 0.5% of 5,000 at the revision before" in found.message


def test_half_more_errors_may_be_the_hour_and_pass() -> None:
    assert verdict(answered(50_000, 500), answered(50_000, 750), ERRORS).outcome is Outcome.PASSING


def test_too_few_requests_on_either_side_say_nothing() -> None:
    assert verdict(answered(5_000), answered(100, 90), ERRORS).outcome is Outcome.INCONCLUSIVE
    assert verdict(answered(100), answered(5_000, 4_000), ERRORS).outcome is Outcome.INCONCLUSIVE
    assert verdict(answered(5_000), answered(100), ERRORS).needed == 100


def test_a_p99_that_doubled_fails_and_one_within_what_is_allowed_passes() -> None:
    before = answered(5_000)
    assert verdict(before, answered(5_000, slower=2, seed=1), SLOW).outcome is Outcome.FAILING
    assert verdict(before, answered(5_000, slower=1.25, seed=1), SLOW).outcome is Outcome.PASSING


def test_a_revision_before_with_few_answers_says_nothing_of_its_p99() -> None:
    found = verdict(answered(300), answered(5_000, slower=9), SLOW)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "too few answers" in found.message


def test_equal_revisions_are_hardly_ever_told_apart_however_often_one_looks() -> None:
    """A hundred pairs of equal revisions, each looked at fifty times."""
    failed = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        before = answered(2_000, int(draw.binomial(2_000, 0.01)), seed=seed)
        errors = np.cumsum(draw.binomial(200, 0.01, 50))
        looks = (Evidence(requests=200 * (i + 1), errors=int(e)) for i, e in enumerate(errors))
        failed += any(verdict(before, now, ERRORS).outcome is Outcome.FAILING for now in looks)
        now = answered(10_000, seed=1000 + seed)
        failed += verdict(before, now, SLOW).outcome is Outcome.FAILING
    assert failed <= 1
