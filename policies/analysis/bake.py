"""Whether the requests after 100% say that a revision is worse than the one before it had been.

There is nobody beside it any more: what the revision before answered during the rollout is all there is to compare
with, and it was another hour. So the comparison is not of two streams at the same time but with a limit: from what the
revision before showed follows how bad it surely was at most, with a part of what false alarms are allowed; with the
rest a sequential test against that rate says whether the new one is surely worse still. Hours differ, so errors may be
twice as many, and a latency may rise by `maxIncrease`, before anything is said.
"""

from __future__ import annotations

import math
from dataclasses import replace

from policies.analysis.clients import Counted, Slow, exact_bounds, failures, own_effect, tells_clients_apart
from policies.analysis.judge import FALSE_ALARMS
from policies.analysis.sequential import mixture
from policies.analysis.tails import seconds_at, tail_of
from policies.analysis.words import beside, many, percent, seconds
from specs.analysis import AnalysisSettings, Judgement, Latency, Measure, Outcome, Unit, Verdict
from specs.evidence import BUCKETS_PER_OCTAVE, Evidence, Window

OTHER_HOUR = 2.0
"""Times as many errors as the revision before surely had at most may be the hour's doing."""


def judge_bake(before: Evidence, now: Evidence, settings: AnalysisSettings) -> Judgement:
    """Judge what was answered since a revision has all requests by what the one before had answered."""
    if settings.unit is Unit.CLIENT and not tells_clients_apart(Window(candidate=now, stable=before)):
        message = "clients cannot be told apart, and with sticky traffic they are what counts"
        return Judgement(outcome=Outcome.INCONCLUSIVE, message=message)
    asked = [
        test for test, wanted in ((_errors, settings.success_rate), (_latency, settings.latency)) if wanted is not None
    ]
    verdicts = tuple(test(before, now, settings, FALSE_ALARMS / len(asked)) for test in asked)
    outcomes = [verdict.outcome for verdict in verdicts]
    outcome = next(one for one in (Outcome.FAILING, Outcome.INCONCLUSIVE, Outcome.PASSING) if one in outcomes)
    told = [verdict.message for verdict in verdicts if verdict.outcome is outcome]
    return Judgement(outcome=outcome, message="; ".join(told), verdicts=verdicts)


def highest_rate(events: float, trials: float, alpha: float) -> float:
    """Return the rate that the true one is below but for a chance of `alpha`; 1 without trials.

    Chernoff's bound: n times the divergence of the seen rate from the true one exceeds log(1 / alpha) that rarely.
    """
    if trials <= 0:
        return 1.0
    seen, limit = events / trials, -math.log(alpha) / trials
    low, high = seen, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _divergence(seen, middle) < limit else (low, middle)
    return high


def _divergence(seen: float, true: float) -> float:
    """Return the Kullback-Leibler divergence of one coin from another."""
    if not 0 < true < 1:
        return math.inf
    hit = seen * math.log(seen / true) if seen else 0.0
    miss = (1 - seen) * math.log((1 - seen) / (1 - true)) if seen < 1 else 0.0
    return hit + miss


def _errors(before: Evidence, now: Evidence, settings: AnalysisSettings, alpha: float) -> Verdict:
    mine, theirs = _share(now), _share(before)
    verdict = Verdict(
        measure=Measure.SUCCESS_RATE,
        outcome=Outcome.PASSING,
        message=f"{percent(mine)} of {many(now.judged)} requests since 100% failed, {percent(theirs)} of "
        f"{many(before.judged)} at the revision before",
        effect=mine / theirs if theirs else None,
        candidate=mine,
        stable=theirs,
        candidate_samples=now.judged,
        stable_samples=before.judged,
    )
    short = _short(verdict, settings)
    if short is not None:
        return short
    usual, effect = _effect(before, settings, failures, now), _effect(now, settings, failures)
    limit = min(OTHER_HOUR * highest_rate(before.errors / usual, before.judged / usual, alpha / 2), 1 - 1e-9)
    log_e = mixture(now.errors / effect, ((now.judged / effect, limit),))
    if log_e < -math.log(alpha / 2):
        return verdict
    return replace(verdict, outcome=Outcome.FAILING, message=f"{verdict.message}: surely more than {percent(limit)}")


def _latency(before: Evidence, now: Evidence, settings: AnalysisSettings, alpha: float) -> Verdict:
    asked = settings.latency or Latency()
    name, rare = f"p{100 * asked.quantile:g}", 1 - asked.quantile
    mine, theirs = tail_of(now.latency), tail_of(before.latency)
    verdict = Verdict(
        measure=Measure.LATENCY,
        outcome=Outcome.PASSING,
        message=f"{name} cannot be compared: one of the revisions has answered nothing",
        candidate_samples=int(mine.total),
        stable_samples=int(theirs.total),
    )
    short = _short(verdict, settings)
    if short is not None:
        return short
    places = mine.place(asked.quantile), theirs.place(asked.quantile)
    value, usual = map(seconds_at, places)
    ratio = value / usual
    said = f"{name} since 100% is {seconds(value)}, {beside(ratio)} the {seconds(usual)} of the revision before"
    verdict = replace(verdict, message=said, effect=ratio, candidate=value, stable=usual)
    bound = _slowest(before, now, rare, settings, alpha / 2)
    if bound is None:
        message = f"{said}, which had too few answers to say how slow it is at most"
        return replace(verdict, outcome=Outcome.INCONCLUSIVE, message=message)
    allowed = bound + math.ceil(math.log2(1 + asked.max_increase) * BUCKETS_PER_OCTAVE)
    effect = _slow_effect(now, settings, allowed)
    log_e = mixture(mine.above(allowed) / effect, ((mine.total / effect, rare),))
    if log_e < -math.log(alpha / 2):
        return verdict
    sure = f"surely above {seconds(seconds_at(allowed))}"
    return replace(
        verdict, outcome=Outcome.FAILING, message=f"{said}: {sure}, {percent(asked.max_increase)} is allowed"
    )


def _slowest(before: Evidence, now: Evidence, rare: float, settings: AnalysisSettings, alpha: float) -> int | None:
    """Return the bucket that the quantile was surely not above; None when too few answers tell."""
    tail = tail_of(before.latency)
    for bucket, _ in before.latency.buckets:
        above = tail.above(bucket)
        # Groups are asked only where it would be rare enough without them.
        if highest_rate(above, tail.total, alpha) <= rare:
            effect = _slow_effect(before, settings, bucket, now)
            if highest_rate(above / effect, tail.total / effect, alpha) <= rare:
                return bucket
    return None


def _short(verdict: Verdict, settings: AnalysisSettings) -> Verdict | None:
    least = settings.min_requests
    if verdict.candidate_samples >= least <= verdict.stable_samples:
        return None
    who = "the revision" if verdict.candidate_samples < least else "the revision before"
    message = f"{verdict.message}: {who} needs {many(least)} to be judged"
    needed = max(least - verdict.candidate_samples, 0)
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, message=message, needed=needed)


def _effect(evidence: Evidence, settings: AnalysisSettings, count: Counted, *others: Evidence) -> float:
    return own_effect([evidence], count, others) if settings.unit is Unit.CLIENT else 1.0


def _slow_effect(evidence: Evidence, settings: AnalysisSettings, bound: int, *others: Evidence) -> float:
    return max(_effect(evidence, settings, Slow(near), *others) for near in exact_bounds(bound))


def _share(evidence: Evidence) -> float:
    return evidence.errors / evidence.judged if evidence.judged else 0.0
