"""Metrics of a metrics server beside the gateway's own signals: what is counted, and what follows from it.

A value out of bounds is a failure; more of them than allowed roll back. A server that does not answer says nothing
about a candidate: after some errors in a row the rollout waits where it is until it answers again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from policies.recall import recalled
from policies.revisions import rolled_back
from policies.view import ServiceView
from specs.decisions import Decision, LatchFailure
from specs.memory import Failure, Rollout, ServiceMemory
from specs.metric_readings import QUERY_NAME, Metric, MetricOutcome, MetricReading, MetricTally
from specs.reasons import Reason


@recalled
def is_measuring(view: ServiceView) -> bool:
    """Return whether the candidate has requests to be measured by, on its way through steps."""
    candidate, rollout = view.memory.candidate, view.memory.rollout
    if candidate is None or rollout is None or rollout.is_fast or view.memory.stable is None:
        return False
    return view.weights.get(candidate, 0) > 0


def slot_of(memory: ServiceMemory, rollout: Rollout, metric: Metric) -> str:
    """Return what names a metric's measurements in one rollout."""
    return f"{memory.name}/{memory.candidate}/{rollout.started_at:%Y%m%dT%H%M%S.%f}/{metric.name}"


def query_of(memory: ServiceMemory, metric: Metric) -> str:
    """Return a metric's query with the names in it replaced; `$$` is a dollar sign."""
    names: Mapping[str, str] = {
        "service": memory.name,
        "revision": memory.candidate or "",
        "stable": memory.stable or "",
        "$": "$",
    }
    return re.sub(QUERY_NAME, lambda found: names.get(found[1], found[0]), metric.query)


def tally_of(view: ServiceView, metric: Metric) -> MetricTally | None:
    """Return what a metric's measurements came to so far, None before the first."""
    rollout = view.memory.rollout
    return next((tally for tally in rollout.tallies if tally.metric == metric.name), None) if rollout else None


def next_tallies(view: ServiceView, rollout: Rollout) -> tuple[MetricTally, ...]:
    """Return the tallies with the measurements that came in since they were last counted."""
    tallies = []
    for metric in view.spec.metrics:
        known = tally_of(view, metric)
        reading = view.observed.outward.reading(slot_of(view.memory, rollout, metric))
        if reading is not None and (known is None or reading.asked_at != known.asked_at):
            known = counted(known or MetricTally(metric=metric.name, asked_at=reading.asked_at), metric, reading)
        if known is not None:
            tallies.append(known)
    return tuple(tallies)


def counted(tally: MetricTally, metric: Metric, reading: MetricReading) -> MetricTally:
    """Return a tally with one more measurement."""
    tally = replace(tally, asked_at=reading.asked_at, message=reading.message)
    match reading.outcome:
        case MetricOutcome.ERROR:
            return replace(tally, errors=tally.errors + 1, errors_in_a_row=tally.errors_in_a_row + 1)
        case MetricOutcome.NOTHING:
            return replace(tally, inconclusive=tally.inconclusive + 1, errors_in_a_row=0)
        case MetricOutcome.VALUE:
            value = reading.value or 0.0
            out = metric.distance(value)
            worst = value if out and (tally.worst is None or out > metric.distance(tally.worst)) else tally.worst
            tally = replace(tally, errors_in_a_row=0, value=value, worst=worst)
            return replace(tally, failed=tally.failed + 1) if out else replace(tally, passed=tally.passed + 1)


@recalled
def failed_metrics(view: ServiceView) -> tuple[Decision, ...]:
    """Return what too many values out of bounds call for: the same as a failed analysis."""
    cells = view.cells_of(view.memory.candidate)
    if not is_measuring(view) or any(cell.memory.failure is not None for cell in cells):
        return ()
    for metric in view.spec.metrics:
        tally = tally_of(view, metric)
        if tally is not None and tally.failed > metric.failure_limit:
            failure = Failure(reason=Reason.ANALYSIS_FAILED, message=failure_text(metric, tally), at=view.now)
            latched = tuple(LatchFailure(service=view.name, cell=cell.memory.key, failure=failure) for cell in cells)
            return (*latched, *rolled_back(view, failure))
    return ()


def failure_text(metric: Metric, tally: MetricTally) -> str:
    """Return the numbers that a verdict rests on."""
    measured = tally.passed + tally.failed
    return (
        f"metric {metric.name}: {tally.failed} of {measured} values are not {metric.bounds} "
        f"(the last is {_number(tally.value)}, the worst {_number(tally.worst)}; failureLimit {metric.failure_limit})"
    )


@recalled
def silent_metric(view: ServiceView) -> str:
    """Return what is to be said of a metric whose server has not answered too often in a row; "" when all do.

    The way to 100%, be it by a person's word, waits for no measurement.
    """
    rollout = view.memory.rollout
    if not is_measuring(view) or rollout is None or rollout.step >= len(view.spec.rollout.steps):
        return ""
    for metric in view.spec.metrics:
        tally = tally_of(view, metric)
        if tally is not None and tally.errors_in_a_row > metric.consecutive_error_limit:
            return (
                f"metric {metric.name} got {tally.errors_in_a_row} errors in a row "
                f"(consecutiveErrorLimit {metric.consecutive_error_limit}): {tally.message}"
            )
    return ""


@recalled
def unmeasured(view: ServiceView) -> str:
    """Return which metric has no value since the present step was reached, and why; "" when all have one."""
    rollout = view.memory.rollout
    for metric in view.spec.metrics if is_measuring(view) else ():
        tally = tally_of(view, metric)
        if tally is None or rollout is None or rollout.reached_at is None:
            return f"metric {metric.name} has not been measured yet"
        if tally.asked_at < rollout.reached_at or tally.message:
            return f"metric {metric.name} has no value at this step: {tally.message or 'to be measured'}"
    return ""


def is_due(tally: MetricTally | None, metric: Metric, view: ServiceView) -> bool:
    """Return whether a metric is to be measured now. A clock that was set back must not silence it."""
    return tally is None or not timedelta(0) <= view.now - tally.asked_at < metric.interval


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
