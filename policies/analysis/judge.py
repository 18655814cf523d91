"""All measures together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from policies.analysis.clients import tells_clients_apart
from policies.analysis.latency import judge_latency, latency_bounds
from policies.analysis.success import judge_success, success_bounds
from specs.analysis import AnalysisSettings, Judgement, Measure, Outcome, Unit, Verdict
from specs.evidence import Window

FALSE_ALARMS = 0.01
"""The chance that an equal candidate is ever rejected in a rollout, over all looks and measures together. Half of
it would cost some 10% more requests for a regression to be found; twice as much, a needless rollback in fifty."""


Bounds = Callable[[Sequence[Window], AnalysisSettings, float], tuple[float | None, float | None]]

_BOUNDS: Mapping[Measure, Bounds] = {Measure.SUCCESS_RATE: success_bounds, Measure.LATENCY: latency_bounds}


def judge(windows: Sequence[Window], settings: AnalysisSettings) -> Judgement:
    """Judge a candidate by all windows of its rollout; as often as one likes, on sums that only grow.

    Measures share the false alarm budget evenly (Bonferroni), so that all together keep it.
    """
    asked = [
        test
        for test, wanted in ((judge_success, settings.success_rate), (judge_latency, settings.latency))
        if wanted is not None
    ]
    if not asked:
        return Judgement(outcome=Outcome.PASSING, message="nothing is asked of the candidate")
    windows = _known(windows, settings)
    if not windows and settings.unit is Unit.CLIENT:
        message = "clients cannot be told apart yet, and with sticky traffic they are what counts"
        return Judgement(outcome=Outcome.INCONCLUSIVE, message=message)
    verdicts = tuple(test(windows, settings, FALSE_ALARMS / len(asked)) for test in asked)
    return _together(verdicts)


def with_bounds(found: Judgement, windows: Sequence[Window], settings: AnalysisSettings) -> Judgement:
    """Return what `judge` found with what surely bounds each effect, for a person to read.

    Nothing is decided by the bounds, and to find them takes the evidence of all windows some two dozen times: more
    than all of the rest.
    """
    windows = _known(windows, settings)
    verdicts = tuple(
        replace(verdict, low=low, high=high)
        for verdict in found.verdicts
        for low, high in [_BOUNDS[verdict.measure](windows, settings, FALSE_ALARMS / len(found.verdicts))]
    )
    return replace(found, verdicts=verdicts)


def _known(windows: Sequence[Window], settings: AnalysisSettings) -> Sequence[Window]:
    """Return the windows that can be counted by what is independent: those from before that was told apart cannot."""
    return windows if settings.unit is not Unit.CLIENT else [*filter(tells_clients_apart, windows)]


def _together(verdicts: tuple[Verdict, ...]) -> Judgement:
    for outcome in (Outcome.FAILING, Outcome.INCONCLUSIVE, Outcome.PASSING):
        found = [verdict for verdict in verdicts if verdict.outcome is outcome]
        if found:
            break
    return Judgement(
        outcome=outcome,
        message="; ".join(verdict.message for verdict in found),
        verdicts=verdicts,
        needed=max(verdict.needed for verdict in verdicts) if outcome is Outcome.INCONCLUSIVE else 0,
    )
