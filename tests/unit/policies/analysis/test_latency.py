"""Quantiles of binned latencies, compared."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.analysis.judge import judge, with_bounds
from policies.analysis.tails import Tails, added, seconds_at, tail_of, tail_of_sums
from specs.analysis import AnalysisSettings, Latency, Outcome, Verdict
from specs.evidence import BUCKETS_PER_OCTAVE, Evidence, LatencyCounts, Window
from tests.bench.rollout_traffic import Latencies, buckets_of, lognormal, widened
from tests.unit.policies.analysis.evidence import histograms

USUAL = Latency()


def drawn(latencies: Latencies, count: int, seed: int = 0) -> LatencyCounts:
    buckets, counts = np.unique(buckets_of(latencies(np.random.default_rng(seed), count)), return_counts=True)
    return LatencyCounts(buckets=tuple(zip(buckets.tolist(), counts.tolist(), strict=True)))


def shifted(counts: LatencyCounts, by: int) -> LatencyCounts:
    return LatencyCounts(buckets=tuple((bucket + by, count) for bucket, count in counts.buckets))


def side(counts: LatencyCounts) -> Evidence:
    return Evidence(requests=counts.total, latency=counts)


def verdict(candidate: LatencyCounts, stable: LatencyCounts, asked: Latency = USUAL) -> Verdict:
    windows = (Window(candidate=side(candidate), stable=side(stable)),)
    wanted = AnalysisSettings(success_rate=None, latency=asked)
    return with_bounds(judge(windows, wanted), windows, wanted).verdicts[0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([0.5, 0.9, 0.99]), st.sampled_from([0.1, 0.5, 1.2]))
def test_quantiles_agree_with_numpys_to_a_fraction_of_a_bucket(seed: int, share: float, sigma: float) -> None:
    seconds = lognormal(0.05, sigma)(np.random.default_rng(seed), 20_000)
    placed = tail_of(LatencyCounts.from_seconds(seconds.tolist())).place(share)
    assert seconds_at(placed) == pytest.approx(np.quantile(seconds, share), rel=0.015)


@given(histograms, st.integers(-5, 705))
def test_what_is_above_a_bound_is_counted(counts: LatencyCounts, bound: int) -> None:
    assert tail_of(counts).above(bound) == sum(count for bucket, count in counts.buckets if bucket > bound)


@given(histograms, histograms)
def test_a_weight_counts_that_many_times(one: LatencyCounts, other: LatencyCounts) -> None:
    both = tail_of_sums(added(added({}, one, 2.0), other))
    twice = tail_of(one + one + other)
    assert both.total == twice.total
    assert all(both.above(bucket) == twice.above(bucket) for bucket in range(0, 710, 10))
    for share in (0.01, 0.5, 0.9, 0.99, 0.999):
        assert both.place(share) == pytest.approx(twice.place(share), abs=1e-6)


@given(histograms, histograms)
def test_histograms_need_not_be_added_up_to_be_read_as_one(one: LatencyCounts, other: LatencyCounts) -> None:
    both, sums = Tails((tail_of(one), 2.0), (tail_of(other), 0.5)), tail_of_sums(added(added({}, one, 2.0), other, 0.5))
    assert both.total == sums.total
    assert all(both.above(bucket) == sums.above(bucket) for bucket in range(-3, 710, 7))
    for share in (0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0):
        assert both.place(share) == pytest.approx(sums.place(share), abs=1e-6)


def test_what_was_summed_up_stays_with_the_histogram() -> None:
    counts = LatencyCounts.from_seconds([0.01, 0.02])
    assert counts.cumulated is counts.cumulated
    assert hash(counts) == hash(LatencyCounts.from_seconds([0.02, 0.01]))
    assert tail_of(counts).above(0) == 2


@pytest.mark.parametrize("by", [-40, -3, 0, 5, 32, 100])
def test_a_candidate_slower_by_a_factor_has_that_effect_within_its_bounds(by: int) -> None:
    factor = 2 ** (by / BUCKETS_PER_OCTAVE)
    found = verdict(shifted(drawn(lognormal(0.05, 0.5), 20_000), by), drawn(lognormal(0.05, 0.5), 20_000, seed=1))
    assert found.effect == pytest.approx(factor, rel=0.1)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= factor <= found.high
    assert found.high / found.low < 1.4


@pytest.mark.parametrize("by", [-64, 17])
def test_bounds_move_with_the_candidate(by: int) -> None:
    mine, theirs = drawn(lognormal(0.05, 0.5), 5_000), drawn(lognormal(0.05, 0.5), 45_000, seed=1)
    there, here = verdict(shifted(mine, by), theirs), verdict(mine, theirs)
    factor = 2 ** (by / BUCKETS_PER_OCTAVE)
    assert there.low is not None
    assert there.high is not None
    assert here.low is not None
    assert here.high is not None
    assert there.low / factor == pytest.approx(here.low)
    assert there.high / factor == pytest.approx(here.high)


def test_a_wider_spread_at_the_same_mean_fails() -> None:
    wide = widened(lambda sigma: lognormal(0.05, sigma), 0.5, 0.3)
    mine, theirs = wide(np.random.default_rng(1), 200_000), lognormal(0.05, 0.5)(np.random.default_rng(2), 200_000)
    assert mine.mean() == pytest.approx(theirs.mean(), rel=0.01)
    found = verdict(drawn(wide, 10_000), drawn(lognormal(0.05, 0.5), 90_000, seed=1))
    assert found.outcome is Outcome.FAILING
    assert re.search(r": surely \d+% higher to \d+% higher, and 30% is allowed", found.message), found.message


def test_a_rise_within_what_is_allowed_passes_however_sure_it_is() -> None:
    slower = lognormal(0.05 * 1.15, 0.5)
    found = verdict(drawn(slower, 100_000), drawn(lognormal(0.05, 0.5), 900_000, seed=1))
    assert found.outcome is Outcome.PASSING
    assert found.low is not None
    assert found.low > 1.05
    less = verdict(drawn(slower, 100_000), drawn(lognormal(0.05, 0.5), 900_000, seed=1), Latency(max_increase=0.05))
    assert less.outcome is Outcome.FAILING


def test_a_faster_candidate_passes() -> None:
    found = verdict(drawn(lognormal(0.02, 0.5), 5_000), drawn(lognormal(0.05, 0.5), 45_000, seed=1))
    assert found.outcome is Outcome.PASSING
    assert found.high is not None
    assert found.high < 0.6


def test_another_quantile_sees_what_moves_there() -> None:
    # The slow tenth becomes three times as slow: p99 sees it, the median does not.
    stable = LatencyCounts.of({200: 9_000, 300: 1_000})
    candidate = LatencyCounts.of({200: 9_000, 350: 1_000})
    assert verdict(candidate, stable).outcome is Outcome.FAILING
    assert verdict(candidate, stable, Latency(quantile=0.5)).outcome is Outcome.PASSING


def test_everything_slow_at_once_fails_soon() -> None:
    found = verdict(LatencyCounts.of({400: 300}), LatencyCounts.of({300: 2_700}))
    assert found.outcome is Outcome.FAILING
    assert found.effect == pytest.approx(2 ** (100 / BUCKETS_PER_OCTAVE), rel=0.03)


def test_without_an_answer_nothing_is_compared() -> None:
    found = verdict(LatencyCounts(), LatencyCounts.of({300: 500}))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.needed == 200
    assert "nothing yet" in found.message


def test_a_slow_hour_of_both_says_nothing_however_the_weights_moved() -> None:
    usual, slow = lognormal(0.05, 0.5), lognormal(0.25, 0.5)
    windows = (
        Window(candidate=side(drawn(usual, 1_000, 1)), stable=side(drawn(usual, 9_000, 2))),
        Window(candidate=side(drawn(slow, 1_000, 3)), stable=side(drawn(slow, 1_000, 4))),
    )
    asked = AnalysisSettings(success_rate=None, latency=Latency(quantile=0.9))
    judged = judge(windows, asked)
    assert judged.outcome is Outcome.PASSING
    assert judged.verdicts[0].effect == pytest.approx(1, rel=0.08)
    candidate, stable = windows[0].candidate + windows[1].candidate, windows[0].stable + windows[1].stable
    assert judge((Window(candidate=candidate, stable=stable),), asked).outcome is Outcome.FAILING
