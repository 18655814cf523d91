"""The rollouts that the analysis is measured on."""

from __future__ import annotations

import numpy as np

from tests.bench.rollout_traffic import (
    Behaviour,
    Drift,
    Floats,
    Latencies,
    Scenario,
    bimodal,
    bursts,
    in_milliseconds,
    lognormal,
    pareto,
    same,
    steady,
    trickle,
    waves,
    widened,
)

EQUAL_ROLLOUTS = 1_000
SHARES = (0.05, 0.1, 0.25, 0.5)

USUAL = Behaviour(latencies=lognormal(0.05, 0.5))

_LATENCIES = (
    lognormal(0.05, 0.5),
    lognormal(0.05, 1.0),
    bimodal(lognormal(0.004, 0.4), lognormal(0.3, 0.5), 0.05),
    pareto(0.02, 1.5),
    in_milliseconds(lognormal(0.004, 0.6)),
)
_ERRORS = (0.01, 0.001, 0.05, 0.2)
_ARRIVALS = (trickle, steady, bursts, waves)
_STEPS = ((0.05,), (0.1,), (0.5,), (0.1, 0.25, 0.5))
_DRIFTS = (
    Drift(),
    Drift(slower=lambda past: 1 + (past > 0.6), more_errors=lambda past: 1 + 2 * (past > 0.6)),
    Drift(slower=lambda past: 1 + 0.5 * np.sin(7 * past), more_errors=lambda past: 1 + 0.9 * np.sin(20 * past)),
)


def equal_rollout(number: int) -> Scenario:
    """Return one of all combinations, in turn."""
    stable = Behaviour(latencies=_LATENCIES[number % 5], error_rate=_ERRORS[number // 5 % 4])
    scenario = Scenario(
        candidate=stable,
        stable=stable,
        arrivals=_ARRIVALS[number // 20 % 4],
        shares=_STEPS[number // 80 % 4],
        drift=_DRIFTS[number // 320 % 3],
    )
    return same(scenario)


def _more_errors(before: float, after: float, share: float) -> Scenario:
    return Scenario(
        candidate=Behaviour(latencies=USUAL.latencies, error_rate=after),
        stable=Behaviour(latencies=USUAL.latencies, error_rate=before),
        arrivals=steady,
        shares=(share,),
        requests=3_000 if (before, after) == (0.01, 0.03) else 20_000,
    )


_OTHER_ERRORS = ((0.01, 0.02), (0.01, 0.1), (0.001, 0.003), (0.001, 0.01), (0.001, 0.1))
ERROR_RATES = {(0.01, 0.03, share): _more_errors(0.01, 0.03, share) for share in SHARES} | {
    (before, after, 0.1): _more_errors(before, after, 0.1) for before, after in _OTHER_ERRORS
}

_FAMILIES = {
    "lognormal, 0.25 wide": (lambda spread: lognormal(0.05, spread), 0.25),
    "lognormal, 0.5 wide": (lambda spread: lognormal(0.05, spread), 0.5),
    "lognormal, 0.75 wide": (lambda spread: lognormal(0.05, spread), 0.75),
    "lognormal, 1 wide": (lambda spread: lognormal(0.05, spread), 1.0),
    "bimodal, 10% slow": (lambda spread: bimodal(lognormal(0.004, spread), lognormal(0.3, spread), 0.1), 0.3),
    "power law of 3": (lambda spread: pareto(0.02, 1 / spread), 1 / 3),
}


def _wider(family: str, share: float) -> Scenario:
    latencies, spread = _FAMILIES[family]
    return Scenario(
        candidate=Behaviour(latencies=_WIDE[family]),
        stable=Behaviour(latencies=latencies(spread)),
        arrivals=steady,
        shares=(share,),
        requests=10_000,
    )


_WIDE = {family: widened(latencies, spread, 0.3) for family, (latencies, spread) in _FAMILIES.items()}
WIDENED = {(family, share): _wider(family, share) for family in _FAMILIES for share in (0.1, 0.25, 0.5)}


def _slower(rise: float, requests: int) -> Scenario:
    candidate = Behaviour(latencies=lognormal(0.05 * (1 + rise), 0.5))
    return Scenario(candidate=candidate, stable=USUAL, arrivals=steady, shares=(0.1,), requests=requests)


RISES = {
    (rise, requests): _slower(rise, requests)
    for rise in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
    for requests in (10_000, 40_000)
}
QUANTILE_RISES = {
    (quantile, rise): _slower(rise, 20_000) for quantile in (0.5, 0.9, 0.95, 0.99, 0.999) for rise in (0.5, 1.0)
}


def _cold(past: Floats) -> Floats:
    """Three times as slow at first, as good as over after a tenth of the rollout: a minute of ten."""
    return 1 + 2 * np.exp(-past * 30)


def _warming(latencies: Latencies) -> dict[str, Scenario]:
    """Return the rollout beside warm replicas, and beside as many that are as cold."""
    candidate = Behaviour(latencies=latencies)
    return {
        "warm replicas": Scenario(
            candidate=candidate,
            stable=candidate,
            arrivals=steady,
            shares=(0.1,),
            requests=12_000,
            warm_up=Drift(slower=_cold),
        ),
        "a fresh baseline": Scenario(
            candidate=candidate,
            stable=candidate,
            arrivals=steady,
            shares=(0.5,),
            requests=12_000,
            drift=Drift(slower=_cold),
        ),
    }


SLOW_FIRST_MINUTE = _warming(USUAL.latencies)
