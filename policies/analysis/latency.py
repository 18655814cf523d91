"""Has the upper end of the latency moved: a quantile, compared by what lies above it.

A quantile has risen when more of the candidate's answers than of the stable revision's take longer than a bound
near that quantile; that is a comparison of two rates, and `sequential` does it. A wider spread at an equal mean
moves the upper end and is seen like any other rise. The bound is the quantile of both revisions' answers put
together: a function of the latencies that does not know whose they are, so that it favours neither; it settles
within few buckets while answers come in.

On the logarithmic scale a rise by a factor is a shift by so many buckets. What shifts of the candidate's histogram
the test has not rejected is a confidence sequence for the factor (Howard and Ramdas 2022 have sequences for the
quantiles of one sample).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from policies.analysis.clients import design_effect
from policies.analysis.sequential import SUSPICIOUS, Stratum, log_evidence
from policies.analysis.shortage import shortage, until_sure
from policies.analysis.tails import Tail, seconds_at, tail_of, weighted
from policies.analysis.words import change, many, percent, seconds
from specs.analysis import AnalysisSettings, Latency, Measure, Outcome, Unit, Verdict
from specs.evidence import BUCKETS_PER_OCTAVE, OVERFLOW, Evidence, Window

WIDEST = 8 * BUCKETS_PER_OCTAVE
"""Shifts are looked for up to a factor of 256."""

BENEFIT = 1.2816
"""Standard errors of a one-sided 90% confidence: so sure must it be that a sure rise is within what is allowed."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One window's histograms."""

    candidate: Tail
    stable: Tail


def judge_latency(windows: Sequence[Window], total: Window, settings: AnalysisSettings, alpha: float) -> Verdict:
    """Compare a quantile; fail what has surely risen, unless the rise is within what is allowed."""
    asked = settings.latency or Latency()
    pairs = [_Pair(candidate=tail_of(w.candidate.latency), stable=tail_of(w.stable.latency)) for w in windows]
    bound = _bound(pairs, asked.quantile, 0)
    effect = design_effect(windows, lambda one: _slow(one, bound)) if settings.unit is Unit.CLIENT else 1.0
    log_e = log_evidence(_strata(pairs, bound, 0, effect))
    rise = _rise(windows, asked.quantile, effect)
    limit = -math.log(alpha)
    low, high = _shifts(pairs, asked.quantile, effect, limit)
    verdict = Verdict(
        measure=Measure.LATENCY,
        outcome=Outcome.PASSING,
        message=_said(rise, asked, total),
        effect=rise.ratio,
        low=low,
        high=high,
        candidate=rise.candidate,
        stable=rise.stable,
        candidate_samples=total.candidate.latency.total,
        stable_samples=total.stable.latency.total,
    )
    is_relevant = rise.highest is None or rise.highest > 1 + asked.max_increase
    if is_relevant and log_e >= limit and verdict.candidate_samples >= settings.min_requests:
        return replace(verdict, outcome=Outcome.FAILING, message=_failed(verdict, asked))
    missing = shortage(verdict, settings.min_requests)
    if missing is not None:
        return missing
    if is_relevant and log_e >= SUSPICIOUS:
        return until_sure(verdict, log_e, alpha)
    return verdict


def _strata(pairs: Sequence[_Pair], bound: int, shift: int, effect: float) -> list[Stratum]:
    return [
        Stratum(
            candidate=pair.candidate.total / effect,
            stable=pair.stable.total / effect,
            candidate_events=pair.candidate.above(bound + shift) / effect,
            stable_events=pair.stable.above(bound) / effect,
        )
        for pair in pairs
    ]


def _bound(pairs: Sequence[_Pair], quantile: float, shift: int) -> int:
    """Return the lowest bucket that at most 1 - `quantile` of all answers lie above, the candidate's shifted down."""
    allowed = (1 - quantile) * sum([pair.candidate.total + pair.stable.total for pair in pairs])
    low, high = -1, OVERFLOW
    while high - low > 1:
        middle = (low + high) // 2
        above = sum([pair.candidate.above(middle + shift) + pair.stable.above(middle) for pair in pairs])
        low, high = (low, middle) if above <= allowed else (middle, high)
    return high


def _shifts(pairs: Sequence[_Pair], quantile: float, effect: float, limit: float) -> tuple[float | None, float | None]:
    """Return factors that the quantile has surely risen by more than, and surely by less than."""
    mirrored = [_Pair(candidate=pair.stable, stable=pair.candidate) for pair in pairs]
    low = _last_rejected(pairs, quantile, effect, limit)
    high = _last_rejected(mirrored, quantile, effect, limit)
    return (None if low is None else _factor(low), None if high is None else _factor(-high))


def _last_rejected(pairs: Sequence[_Pair], quantile: float, effect: float, limit: float) -> int | None:
    """Return the largest shift that "no more of the candidate's are slow than that" is rejected at, or None."""

    def is_rejected(shift: int) -> bool:
        return log_evidence(_strata(pairs, _bound(pairs, quantile, shift), shift, effect)) >= limit

    low, high = -WIDEST, WIDEST
    if not is_rejected(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_rejected(middle) else (low, middle)
    return low


def _factor(shift: float) -> float:
    return float(2 ** (shift / BUCKETS_PER_OCTAVE))


@dataclass(frozen=True, kw_only=True)
class _Rise:
    """Estimates in seconds, their ratio, and the ratio's upper limit with 90% confidence; None: cannot be told."""

    candidate: float | None = None
    stable: float | None = None
    ratio: float | None = None
    highest: float | None = None


def _rise(windows: Sequence[Window], quantile: float, effect: float) -> _Rise:
    """Estimate both quantiles, the stable revision's as if it had had its windows in the candidate's proportion."""
    shared = [(one.candidate.latency, one.stable.latency) for one in windows if one.stable.latency.buckets]
    sizes = [(mine.total, theirs.total) for mine, theirs in shared]
    candidate = weighted((mine, 1.0) for mine, _ in shared)
    stable = weighted((theirs, mine / total) for (_, theirs), (mine, total) in zip(shared, sizes, strict=True))
    if not candidate.total or not stable.total:
        return _Rise()
    # Kish 1965: so many answers of equal weight say as much as these.
    squares = sum(mine * mine / total for mine, total in sizes)
    mine, theirs = candidate.place(quantile), stable.place(quantile)
    above = candidate.place(quantile + _margin(quantile, candidate.total / effect)) - mine
    below = theirs - stable.place(max(quantile - _margin(quantile, stable.total**2 / squares / effect), 0))
    # Zou and Donner 2008: limits of a difference from the limits of its parts.
    highest = mine - theirs + math.hypot(above, below)
    return _Rise(
        candidate=seconds_at(mine),
        stable=seconds_at(theirs),
        ratio=_factor(mine - theirs),
        highest=None if math.isinf(highest) else _factor(highest),
    )


def _margin(quantile: float, samples: float) -> float:
    return BENEFIT * math.sqrt(quantile * (1 - quantile) / samples)


def _slow(evidence: Evidence, bound: int) -> tuple[float, float]:
    above = 0
    for bucket, count in reversed(evidence.latency.buckets):
        if bucket <= bound:
            break
        above += count
    return above, evidence.latency.total


def _said(rise: _Rise, asked: Latency, total: Window) -> str:
    name = f"p{100 * asked.quantile:g}"
    if rise.candidate is None or rise.stable is None or rise.ratio is None:
        return f"{name} cannot be compared: one of the revisions has answered nothing yet"
    return (
        f"{name} is {seconds(rise.candidate)}, {change(rise.ratio)} than the stable revision's {seconds(rise.stable)} "
        f"({many(total.candidate.latency.total)} and {many(total.stable.latency.total)} answers)"
    )


def _failed(verdict: Verdict, asked: Latency) -> str:
    sure = "surely higher" if verdict.low is None or verdict.low <= 1 else f"surely {change(verdict.low)}"
    return f"{verdict.message}: {sure}, and {percent(asked.max_increase)} is allowed"
