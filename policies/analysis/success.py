"""Whether more of the candidate's requests fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from policies.analysis.clients import design_effect
from policies.analysis.sequential import SUSPICIOUS, Stratum, bounds, log_evidence, mixture, ratio_of_rates
from policies.analysis.shortage import shortage, until_sure
from policies.analysis.windows import counters
from policies.analysis.words import many, percent, sure_bounds
from specs.analysis import AnalysisSettings, Measure, Outcome, Unit, Verdict
from specs.evidence import Evidence, Window

FLOOR_PART = 0.2
"""What of the false alarm budget goes to the floor where there is one; the comparison sees most regressions."""

NEGLIGIBLE = 1.1
"""A rate of errors up to 10% higher is not worth a rollback, however sure it is."""


def judge_success(windows: Sequence[Window], settings: AnalysisSettings, alpha: float) -> Verdict:
    """Compare the shares of failed requests; fail what is surely worse."""
    minimum = settings.success_rate.minimum if settings.success_rate else None
    total = counters(windows)
    effect = _effect(windows, settings)
    strata = [_stratum(window, effect) for window in windows]
    verdict = _compare(strata, total, settings, _compared_alpha(settings, alpha))
    if minimum is None or verdict.outcome is Outcome.FAILING or total.candidate.judged < settings.min_requests:
        return verdict
    return _against_floor(verdict, total, _Floor(minimum=minimum, effect=effect, alpha=alpha * FLOOR_PART))


def success_bounds(
    windows: Sequence[Window], settings: AnalysisSettings, alpha: float
) -> tuple[float | None, float | None]:
    """Return ratios of the failed shares that the true one is surely above and surely below (see `bounds`)."""
    effect = _effect(windows, settings)
    return bounds([_stratum(window, effect) for window in windows], _compared_alpha(settings, alpha))


def _effect(windows: Sequence[Window], settings: AnalysisSettings) -> float:
    return design_effect(windows, _failures) if settings.unit is Unit.CLIENT else 1.0


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
        low, _ = bounds(strata, alpha)
        return replace(verdict, outcome=Outcome.FAILING, message=f"{verdict.message}{sure_bounds(ratio, low)}")
    if missing is not None:
        return missing
    if is_relevant and log_e >= SUSPICIOUS:
        return until_sure(verdict, log_e, alpha)
    return verdict


@dataclass(frozen=True, kw_only=True)
class _Floor:
    minimum: float
    effect: float
    alpha: float

    def is_surely_missed(self, evidence: Evidence) -> bool:
        return self._log_evidence(evidence, 1) >= -math.log(self.alpha)

    def is_surely_kept(self, evidence: Evidence) -> bool:
        return self._log_evidence(evidence, -1) >= -math.log(self.alpha)

    def _log_evidence(self, evidence: Evidence, sign: int) -> float:
        errors, judged = _failures(evidence)
        return mixture(errors / self.effect, ((judged / self.effect, 1 - self.minimum),), sign)


def _against_floor(verdict: Verdict, total: Window, floor: _Floor) -> Verdict:
    """Fail a candidate that is surely below the floor while the stable revision is above, or has no traffic.

    When the stable revision is not surely above it, it may not be the candidate's doing: that is inconclusive.
    """
    if not floor.is_surely_missed(total.candidate):
        return verdict
    below = f"surely fewer than {percent(floor.minimum)} succeed"
    if not total.stable.judged or floor.is_surely_kept(total.stable):
        return replace(verdict, outcome=Outcome.FAILING, message=f"{verdict.message}: {below}", needed=0)
    message = f"{verdict.message}: {below}, which the stable revision does not surely do either"
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, message=message)


def _failures(evidence: Evidence) -> tuple[float, float]:
    return evidence.errors, evidence.judged


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
