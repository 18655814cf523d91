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

from policies.analysis import bands
from policies.analysis.clients import Slow, design_effect, exact_bounds
from policies.analysis.sequential import SUSPICIOUS, Stratum, excess, last_above, log_evidence, stays_below
from policies.analysis.shortage import shortage, until_sure
from policies.analysis.tails import Tail, Tails, ended, seconds_at, tail_of
from policies.analysis.words import beside, many, percent, seconds, sure_change
from specs.analysis import AnalysisSettings, Latency, Measure, Outcome, Unit, Verdict
from specs.evidence import BUCKETS_PER_OCTAVE, LatencyCounts, Window

WIDEST = 8 * BUCKETS_PER_OCTAVE
"""Shifts are looked for up to a factor of 256."""

DOUBT = 1.2816
"""Standard errors of a one-sided 90% confidence: what is not so surely below the allowed rise may be that much..."""

NEAR = 0.2
"""... but an estimate more than a fifth below what is allowed is within it. Without this, a rise of two thirds of
what is allowed would fail more often than not, in the first moment that it is sure to be a rise at all."""


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """Histograms of both sides: of all windows together, weighted (see `Ended`), and of each window."""

    candidate: Tail | Tails
    stable: Tail | Tails
    weighted: Tail | Tails
    size: float
    """So many answers of equal weight say as much as the weighted ones (Kish 1965)."""
    windows: tuple[tuple[Tail, Tail], ...]
    effect: float = 1.0
    """By how much clients that come in clusters dilute the counts."""

    @property
    def is_comparable(self) -> bool:
        """Return whether both have answered anything."""
        return bool(self.candidate.total and self.stable.total)

    @property
    def mirrored(self) -> _Sides:
        """Return the same with the revisions' roles changed."""
        windows = tuple((stable, candidate) for candidate, stable in self.windows)
        return replace(self, candidate=self.stable, stable=self.candidate, windows=windows)

    def bound(self, quantile: float, shift: int = 0) -> int:
        """Return the bucket that about 1 - `quantile` of all lie above, the candidate's shifted down.

        Of the two bounds of the bucket that the quantile lies in, the one that leaves a share nearer to that: many
        latencies may be the same, and then nothing at all lies above the upper one.
        """
        wanted = (1 - quantile) * (self.candidate.total + self.stable.total)
        # The quantile of both together lies between that of either.
        places = (self.candidate.place(quantile) - shift, self.stable.place(quantile))
        low, high = math.floor(min(places)) - 2, math.ceil(max(places)) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._above(middle, shift) <= wanted else (middle, high)
        more, fewer = self._above(high - 1, shift), self._above(high, shift)
        return high - 1 if more * max(fewer, 0.5) < wanted * wanted else high

    def _above(self, bound: int, shift: int) -> float:
        return self.candidate.above(bound + shift) + self.stable.above(bound)

    def strata(self, bound: int, shift: int = 0) -> list[Stratum]:
        """Return what lies above the bound in each window, the candidate's shifted down."""
        return [
            Stratum(
                candidate=candidate.total / self.effect,
                stable=stable.total / self.effect,
                candidate_events=candidate.above(bound + shift) / self.effect,
                stable_events=stable.above(bound) / self.effect,
            )
            for candidate, stable in self.windows
        ]


def _sides(windows: Sequence[Window]) -> _Sides:
    pairs = tuple((one.candidate.latency, one.stable.latency) for one in windows)
    each = tuple((tail_of(mine), tail_of(theirs)) for mine, theirs in pairs)
    if len(pairs) <= 1:
        mine, theirs = each[0] if each else (tail_of(LatencyCounts()), tail_of(LatencyCounts()))
        return _Sides(candidate=mine, stable=theirs, weighted=theirs, size=theirs.total, windows=each)
    before, (mine, theirs) = ended(pairs[:-1]), each[-1]
    stable, weighted, spread = Tails((before.stable, 1.0), (theirs, 1.0)), Tails((before.weighted, 1.0)), before.spread
    if mine.total and theirs.total:
        weighted = Tails((before.weighted, 1.0), (theirs, mine.total / theirs.total))
        spread += mine.total**2 / theirs.total
    comparable = weighted if weighted.total else stable
    return _Sides(
        candidate=Tails((before.candidate, 1.0), (mine, 1.0)),
        stable=stable,
        weighted=comparable,
        size=comparable.total**2 / spread if spread else comparable.total,
        windows=each,
    )


def judge_latency(windows: Sequence[Window], settings: AnalysisSettings, alpha: float) -> Verdict:
    """Compare a quantile; fail what has surely risen, unless the rise is within what is allowed."""
    asked = settings.latency or Latency()
    sides = _sides(windows)
    if not sides.is_comparable:
        return _nothing(sides, settings)
    limit, rise = -math.log(alpha), _rise(sides, asked.quantile)
    verdict = Verdict(
        measure=Measure.LATENCY,
        outcome=Outcome.PASSING,
        message=_said(rise, asked, sides),
        effect=rise.ratio,
        candidate=rise.candidate,
        stable=rise.stable,
        candidate_samples=int(sides.candidate.total),
        stable_samples=int(sides.stable.total),
    )
    # Most looks at a sound candidate end here: how sure a rise is matters only where there is one.
    log_e = 0.0
    if rise.is_near(1 + asked.max_increase):
        sides, log_e = _looked_into(sides, asked, windows if settings.unit is Unit.CLIENT else ())
    if log_e >= limit and verdict.candidate_samples >= settings.min_requests:
        sure = sure_change(*_shifts(sides, asked.quantile, limit))
        message = f"{verdict.message}: {sure}, and {percent(asked.max_increase)} is allowed"
        return replace(verdict, outcome=Outcome.FAILING, message=message)
    missing = shortage(verdict, settings.min_requests)
    if missing is not None:
        return missing
    if log_e >= SUSPICIOUS:
        return until_sure(verdict, log_e, alpha)
    return verdict


def latency_bounds(
    windows: Sequence[Window], settings: AnalysisSettings, alpha: float
) -> tuple[float | None, float | None]:
    """Return factors that the quantile has surely risen by more than, and surely by less than; None: no such."""
    asked = settings.latency or Latency()
    sides = _sides(windows)
    if not sides.is_comparable:
        return None, None
    if settings.unit is Unit.CLIENT:
        sides = _diluted(sides, windows, [sides.bound(asked.quantile)])
    return _shifts(sides, asked.quantile, -math.log(alpha))


def _diluted(sides: _Sides, windows: Sequence[Window], bounds: Sequence[int]) -> _Sides:
    """Return sides whose answers count as so many of different clients: by the bound where they are most alike."""
    exact = sorted({near for bound in bounds for near in exact_bounds(bound)})
    return replace(sides, effect=max(design_effect(windows, Slow(bound)) for bound in exact))


def _looked_into(sides: _Sides, asked: Latency, by_client: Sequence[Window]) -> tuple[_Sides, float]:
    """Return sides with their counts as they say it, and log E of a rise that is not allowed; 0 where that is nothing.

    `by_client` are the windows when clients are the unit. How slow answers lie over clients takes longer to find out
    than all the rest, and it only ever makes evidence less (`stays_below`): so what is no suspicion without it is none.
    """
    bound, further = sides.bound(asked.quantile), [sides.bound(share) for share in bands.shares(asked.quantile)]
    out = sides
    if by_client:
        if stays_below(_most(sides, bound, further), SUSPICIOUS):
            return sides, 0.0
        sides = out = _diluted(sides, by_client, [bound])
    if _rise(sides, asked.quantile).highest <= 1 + asked.max_increase:
        return sides, 0.0
    if by_client:
        if stays_below(_most(sides, bound, further), SUSPICIOUS):
            return sides, 0.0
        out = _diluted(sides, by_client, [bound, *further])
    return sides, _mean([log_evidence(sides.strata(bound)), _beyond(out, further)])


def _most(sides: _Sides, bound: int, further: Sequence[int]) -> float:
    """Return what the evidence of both ways of looking is at most, if clients dilute it by as much or more."""
    return _mean([max(0.0, log_evidence(sides.strata(bound))), max(0.0, _beyond(sides, further))])


def _beyond(sides: _Sides, further: Sequence[int]) -> float:
    return bands.log_evidence([sides.strata(one) for one in further])


def _mean(logs: Sequence[float]) -> float:
    """Return log E by two ways of looking, each with half of what is believed: at the quantile, and further out."""
    highest = max(logs)
    return highest + math.log(sum([math.exp(log - highest) for log in logs]) / len(logs))


def _nothing(sides: _Sides, settings: AnalysisSettings) -> Verdict:
    samples = int(sides.candidate.total)
    return Verdict(
        measure=Measure.LATENCY,
        outcome=Outcome.INCONCLUSIVE,
        message="latency cannot be compared: one of the revisions has answered nothing yet",
        candidate_samples=samples,
        stable_samples=int(sides.stable.total),
        needed=max(settings.min_requests - samples, 0),
    )


def _shifts(sides: _Sides, quantile: float, limit: float) -> tuple[float | None, float | None]:
    shift = math.log2(_rise(sides, quantile).ratio) * BUCKETS_PER_OCTAVE
    low = _last_rejected(sides, quantile, math.floor(shift), limit)
    high = _last_rejected(sides.mirrored, quantile, math.floor(-shift), limit)
    return (None if low is None else _factor(low), None if high is None else _factor(-high))


def _last_rejected(sides: _Sides, quantile: float, high: int, limit: float) -> int | None:
    """Return the largest shift below `high` at which the candidate is surely slower still; None: there is none."""

    def above(shift: int) -> float:
        return excess(log_evidence(sides.strata(sides.bound(quantile, shift), shift)), limit)

    return last_above(above, high, -WIDEST)


def _factor(shift: float) -> float:
    return math.inf if math.isinf(shift) else float(2 ** (shift / BUCKETS_PER_OCTAVE))


@dataclass(frozen=True, kw_only=True)
class _Rise:
    """Estimates in seconds, their ratio, and the ratio's upper limit with 90% confidence (infinite when unknown)."""

    candidate: float
    stable: float
    ratio: float
    highest: float

    def is_near(self, allowed: float) -> bool:
        """Return whether the ratio is estimated near to what is allowed, or above it."""
        return self.ratio * math.pow(allowed, NEAR) > allowed


def _rise(sides: _Sides, quantile: float) -> _Rise:
    """Estimate both quantiles, the stable revision's as if it had had its windows in the candidate's proportion."""
    stable, size = sides.weighted, sides.size
    mine, theirs = sides.candidate.place(quantile), stable.place(quantile)
    above = sides.candidate.place(quantile + _margin(quantile, sides.candidate.total / sides.effect)) - mine
    below = theirs - stable.place(max(quantile - _margin(quantile, size / sides.effect), 0))
    # Zou and Donner 2008: limits of a difference from the limits of its parts.
    highest = mine - theirs + math.hypot(above, below)
    return _Rise(
        candidate=seconds_at(mine),
        stable=seconds_at(theirs),
        ratio=_factor(mine - theirs),
        highest=_factor(highest),
    )


def _margin(quantile: float, samples: float) -> float:
    return DOUBT * math.sqrt(quantile * (1 - quantile) / samples)


def _said(rise: _Rise, asked: Latency, sides: _Sides) -> str:
    name = f"p{100 * asked.quantile:g}"
    return (
        f"{name} is {seconds(rise.candidate)}, {beside(rise.ratio)} the stable revision's {seconds(rise.stable)} "
        f"({many(sides.candidate.total)} and {many(sides.stable.total)} answers)"
    )
