"""Rollouts by the dozen, from fixed seeds: the small brother of `make bench ARGS=analysis`."""

from __future__ import annotations

import pytest

from policies.analysis import judge
from specs.analysis import AnalysisSettings, Outcome
from tests.bench.rollout_traffic import (
    Behaviour,
    Drift,
    Scenario,
    bimodal,
    bursts,
    in_milliseconds,
    lognormal,
    looks,
    pareto,
    same,
    steady,
    waves,
    widened,
)

USUAL = Behaviour(latencies=lognormal(0.05, 0.5))
SETTINGS = AnalysisSettings()
ALIKE = [
    Scenario(candidate=USUAL, stable=USUAL, arrivals=steady, shares=(0.1,)),
    Scenario(candidate=USUAL, stable=USUAL, arrivals=bursts, shares=(0.1, 0.25, 0.5)),
    same(
        Scenario(
            candidate=USUAL,
            stable=Behaviour(latencies=in_milliseconds(pareto(0.004, 1.5)), error_rate=0.05),
            arrivals=waves,
            shares=(0.5,),
        )
    ),
    same(
        Scenario(
            candidate=USUAL,
            stable=Behaviour(latencies=bimodal(lognormal(0.004, 0.4), lognormal(0.3, 0.5), 0.05), error_rate=0.001),
            arrivals=steady,
            shares=(0.1, 0.5),
            drift=Drift(slower=lambda past: 1 + (past > 0.5), more_errors=lambda past: 1 + 4 * (past > 0.5)),
        )
    ),
]


def failed_after(scenario: Scenario, seed: int) -> int | None:
    """Return after how many of the candidate's requests it failed, None when it did not."""
    for windows in looks(scenario, seed):
        if judge(windows, SETTINGS).outcome is Outcome.FAILING:
            return sum(window.candidate.requests for window in windows)
    return None


@pytest.mark.parametrize("kind", range(len(ALIKE)))
def test_equal_candidates_are_left_alone_at_every_look(kind: int) -> None:
    assert [failed_after(ALIKE[kind], seed) for seed in range(3)] == [None] * 3


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_three_times_the_errors_are_found(share: float) -> None:
    worse = Behaviour(latencies=USUAL.latencies, error_rate=0.03)
    scenario = Scenario(candidate=worse, stable=USUAL, arrivals=steady, shares=(share,), requests=3_000)
    assert sum(failed_after(scenario, seed) is not None for seed in range(20)) >= 19


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_wider_spread_at_the_same_mean_is_found(share: float) -> None:
    wider = Behaviour(latencies=widened(lambda sigma: lognormal(0.05, sigma), 0.5, 0.3))
    scenario = Scenario(candidate=wider, stable=USUAL, arrivals=steady, shares=(share,), requests=10_000)
    assert sum(failed_after(scenario, seed) is not None for seed in range(10)) >= 9
