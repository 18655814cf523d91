"""Whether more of the candidate's requests fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from policies.analysis.clients import design_effect, failures, own_effect
from policies.analysis.sequential import (
    SUSPICIOUS,
    Stratum,
    bounds,
    log_evidence,
    mixture,
    ratio_of_rates,
    stays_below,
)
from policies.analysis.shortage import shortage, until_sure
from policies.analysis.windows import counters
from policies.analysis.words import many, percent, sure_bounds
from specs.analysis import AnalysisSettings, Measure, Outcome, Unit, Verdict
from specs.evidence import Evidence, Window

FLOOR_PART = 0.2
"""What of the false alarm budget goes to the floor where there is one; the comparison sees most regressions."""

CLUSTERED = 1.5
"""From here on a person wonders why so many failures are not enough."""

NEGLIGIBLE = 1.1
"""A rate of errors up to 10% higher is not worth a rollback, however sure it is."""


def judge_success(windows: Sequence[Window], settings: AnalysisSettings, alpha: float) -> Verdict:
    """Compare the shares of failed requests; fail what is surely worse."""
    minimum = settings.success_rate.minimum if settings.success_rate else None
    total = counters(windows)
    effect = _effect(windows, settings)
    strata = [_stratum(window, effect) for window in windows]
    verdict = _compare(strata, total, settings, _compared_alpha(settings, alpha))
    if effect >= CLUSTERED:
        worth = f"; by how these lie over clients they tell as much as {many(total.candidate.judged / effect)} requests"
        verdict = replace(verdict, message=f"{verdict.message}{worth} of different clients")
    if minimum is None or verdict.outcome is Outcome.FAILING or total.candidate.judged < settings.min_requests:
        return verdict
    floor = _Floor(minimum=minimum, alpha=alpha * FLOOR_PART)
    # Most candidates are above the floor, and then it need not be asked how failures lie over clients.
    if floor.is_never_missed(_side(total.candidate, 1.0)):
        return verdict
    return _against_floor(verdict, _sides(windows, total, settings), floor)


def success_bounds(
    windows: Sequence[Window], settings: AnalysisSettings, alpha: float
) -> tuple[float | None, float | None]:
    """Return ratios of the failed shares that the true one is surely above and surely below (see `bounds`)."""
    effect = _effect(windows, settings)
    return bounds([_stratum(window, effect) for window in windows], _compared_alpha(settings, alpha))


def _effect(windows: Sequence[Window], settings: AnalysisSettings) -> float:
    return design_effect(windows, failures) if settings.unit is Unit.CLIENT else 1.0


def _compared_alpha(settings: AnalysisSettings, alpha: float) -> float:
    has_floor = settings.success_rate is not None and settings.success_rate.minimum is not None
    return alpha * (1 - FLOOR_PART) if has_floor else alpha


def _compare(strata: Sequence[Stratum], total: Window, settings: AnalysisSettings, alpha: float) -> Verdict:
    candidate, stable = total.candidate, total.stable
    log_e, ratio = log_evidence(strata), ratio_of_rates(strata)
    verdict = Verdict(
        measure=Measure.SUCCESS_RATE,
        outcome=Outcome.PASSING,
        message=_shares(candidate, stable),
        effect=ratio,
        candidate=_share(candidate),
        stable=_share(stable),
        candidate_samples=candidate.judged,
        stable_samples=stable.judged,
    )
    missing = shortage(verdict, settings.min_requests)
    is_relevant = ratio is None or ratio >= NEGLIGIBLE
    if is_relevant and log_e >= -math.log(alpha) and candidate.judged >= settings.min_requests:
        sure = sure_bounds(ratio, *bounds(strata, alpha))
        return replace(verdict, outcome=Outcome.FAILING, message=f"{verdict.message}{sure}")
    if missing is not None:
        return missing
    if is_relevant and log_e >= SUSPICIOUS:
        return until_sure(verdict, log_e, alpha)
    return verdict


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One revision's failures, counted as so many independent ones."""

    errors: float
    judged: float


def _sides(windows: Sequence[Window], total: Window, settings: AnalysisSettings) -> tuple[_Side, _Side]:
    if settings.unit is not Unit.CLIENT:
        return _side(total.candidate, 1.0), _side(total.stable, 1.0)
    mine, theirs = [window.candidate for window in windows], [window.stable for window in windows]
    effects = own_effect(mine, failures, theirs), own_effect(theirs, failures, mine)
    return _side(total.candidate, effects[0]), _side(total.stable, effects[1])


def _side(total: Evidence, effect: float) -> _Side:
    return _Side(errors=total.errors / effect, judged=total.judged / effect)


@dataclass(frozen=True, kw_only=True)
class _Floor:
    minimum: float
    alpha: float

    def is_never_missed(self, side: _Side) -> bool:
        """Return whether it is not surely missed, by however many clients the failures are."""
        return stays_below(self._log_evidence(side, 1), -math.log(self.alpha))

    def is_surely_missed(self, side: _Side) -> bool:
        return self._log_evidence(side, 1) >= -math.log(self.alpha)

    def is_surely_kept(self, side: _Side) -> bool:
        return self._log_evidence(side, -1) >= -math.log(self.alpha)

    def _log_evidence(self, side: _Side, sign: int) -> float:
        return mixture(side.errors, ((side.judged, 1 - self.minimum),), sign)


def _against_floor(verdict: Verdict, sides: tuple[_Side, _Side], floor: _Floor) -> Verdict:
    """Fail a candidate that is surely below the floor while the stable revision is above, or has no traffic.

    When the stable revision is not surely above it, it may not be the candidate's doing: that is inconclusive.
    """
    candidate, stable = sides
    if not floor.is_surely_missed(candidate):
        return verdict
    below = f"surely fewer than {percent(floor.minimum)} succeed"
    if not stable.judged or floor.is_surely_kept(stable):
        return replace(verdict, outcome=Outcome.FAILING, message=f"{verdict.message}: {below}", needed=0)
    message = f"{verdict.message}: {below}, which the stable revision does not surely do either"
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, message=message)


def _stratum(window: Window, effect: float) -> Stratum:
    return Stratum(
        candidate=window.candidate.judged / effect,
        stable=window.stable.judged / effect,
        candidate_events=window.candidate.errors / effect,
        stable_events=window.stable.errors / effect,
    )


def _share(evidence: Evidence) -> float | None:
    return evidence.errors / evidence.judged if evidence.judged else None


def _shares(candidate: Evidence, stable: Evidence) -> str:
    mine, theirs = _share(candidate), _share(stable)
    if mine is None:
        return "the candidate has answered no request yet"
    said = f"{percent(mine)} of {many(candidate.judged)} requests failed"
    if theirs is None:
        return f"{said}, and the stable revision had none"
    return f"{said}, {percent(theirs)} of {many(stable.judged)} at the stable revision"
