"""What an analysis asks of a candidate, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """What is independent of each other, and therefore counts."""

    REQUEST = "request"
    CLIENT = "client"
    """With sticky traffic one client's requests share its luck: a hundred errors of one client are one finding."""


class Baseline(StrEnum):
    """What the candidate is compared with."""

    STABLE = "stable"
    """The replicas of the stable revision, as they are."""
    FRESH = "fresh"
    """As many replicas of the stable revision that start together with the candidate's."""


BASELINE_ROOM = 2
"""Replicas that a candidate and a fresh baseline need at worst beyond those that carry all requests."""


@dataclass(frozen=True, kw_only=True)
class SuccessRate:
    """Compare the share of failed requests with the stable revision's.

    `minimum` is the share of successes, 0 to 1, that a candidate must not surely be below.
    """

    minimum: float | None = None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Compare a quantile of the latencies with the stable revision's.

    `quantile` is a share, 0.99 for the 99th percentile. `max_increase` is how much higher the candidate's may be,
    0.30 for 30%: a candidate fails when its quantile has surely risen and by an estimate that is above this, or
    below it by no more than one can be wrong and no more than a fifth of it.
    """

    quantile: float = 0.99
    max_increase: float = 0.30


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """What is asked. A measure that is None is not looked at.

    No revision fails, and none passes, with fewer than `min_requests`.
    """

    success_rate: SuccessRate | None = SuccessRate()
    latency: Latency | None = Latency()
    min_requests: int = 200
    unit: Unit = Unit.REQUEST
    baseline: Baseline = Baseline.STABLE


class Outcome(StrEnum):
    """What an analysis comes to."""

    PASSING = "passing"
    """Enough was seen, and nothing of it speaks against the candidate."""
    FAILING = "failing"
    """The candidate is worse, and the chance to say so of an equal one is within the false alarm budget."""
    INCONCLUSIVE = "inconclusive"
    """Too little was seen, or the candidate looks worse without that being sure yet."""


class Measure(StrEnum):
    """What was compared."""

    SUCCESS_RATE = "successRate"
    LATENCY = "latency"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one measure says. Candidate over stable: an effect of 1 is none, 1.3 is 30% more.

    The effect is the ratio of failed shares, or of latency quantiles; None where there is nothing to divide.
    `low` and `high` hold it with the confidence of the test, however often one looks; None: no such limit, or not
    reckoned (`policies.analysis.with_bounds` does).
    """

    measure: Measure
    outcome: Outcome
    message: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    candidate: float | None = None
    """The candidate's share of failed requests (0 to 1), or latency quantile (seconds)."""
    stable: float | None = None
    candidate_samples: int = 0
    stable_samples: int = 0
    needed: int = 0
    """Requests to the candidate that are still needed, as far as can be told; 0 when that is settled or unknown."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What all measures say together: FAILING when one fails, PASSING when all pass."""

    outcome: Outcome
    message: str
    verdicts: tuple[Verdict, ...] = ()
    needed: int = 0
