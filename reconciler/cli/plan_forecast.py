"""A plan's prediction in words, for the text and the comment alike."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from reconciler.cli.terminal import clean
from specs.durations import format_duration
from specs.predicted import Ending, PredictedService, Prediction, Resource, Unplaced

TOLD = {
    "RolloutStarted": "the rollout starts",
    "CellCreated": "the new revision is created",
    "WeightsChanged": "requests",
    "StepEntered": "next step",
    "Promoted": "takes all requests",
    "CellRetired": "the old revision goes",
    "Removing": "it is drained",
    "Removed": "it is gone",
    "Scaled": "scaled",
}
"""Events that are told, in few words; those that keep the books are not."""

MAX_MOMENTS = 30
GIBIBYTE = 2**30


def summary(prediction: Prediction) -> list[str]:
    """Return what holds for the change as a whole."""
    if not prediction.is_complete:
        return [f"How it would go cannot be told: {clean(prediction.problem)}"]
    lines = [f"On the live cluster: {_whole(prediction)}"]
    lines += [f"  {resource_text(resource)}" for resource in prediction.resources]
    lines += [f"  no room: {_unplaced(one)}" for one in prediction.unplaced]
    return lines


def _whole(prediction: Prediction) -> str:
    took = "does not end by itself" if prediction.duration is None else f"takes about {spelt(prediction.duration)}"
    fits = "everything fits now" if prediction.fits else "NOT everything fits now"
    return f"it {took}, at most {prediction.peak} replicas at once, {fits}"


def resource_text(resource: Resource) -> str:
    """Return how much of one resource is used now, at the peak, and there is."""
    unit = GIBIBYTE if resource.name == "memory" else 1
    name = "GiB memory" if resource.name == "memory" else resource.name
    return f"{name}: {resource.now / unit:g} now, {resource.peak / unit:g} at the peak, of {resource.total / unit:g}"


def _unplaced(one: Unplaced) -> str:
    needs = ", ".join(f"{amount:g} {name}" for name, amount in sorted(one.needs.items()))
    return f"{one.service}/{one.deployment}: {one.count} replica(s) find no node with {needs} after {spelt(one.after)}"


def outline(service: PredictedService) -> list[str]:
    """Return what holds for one service, without its steps."""
    peaks = ", ".join(f"{name} {service.before.get(name, 0)} -> {most}" for name, most in service.peak.items())
    lines = [f"{_ending(service)}; most live replicas: {peaks or 'none'}"]
    if service.restarts or service.started:
        where = f" ({_counts(service.zones)})" if service.started else ""
        lines.append(f"{len(service.restarts)} replica(s) that run now stop, {_sum(service.started)} new{where}")
    for hold in service.holds:
        lasts = "until somebody acts" if hold.lasts is None else f"for {spelt(hold.lasts)}"
        lines.append(f"waits from +{spelt(hold.after)} {lasts}, {hold.reason.value}: {clean(hold.message)}")
    return lines


def steps(service: PredictedService) -> list[str]:
    """Return a service's steps with their times, counted from now."""
    told = [moment for moment in service.moments if moment.kind in TOLD]
    lines = [f"+{spelt(moment.after):>7}  {TOLD[moment.kind]}: {clean(moment.message)}" for moment in told]
    more = len(lines) - MAX_MOMENTS
    return lines[:MAX_MOMENTS] + ([f"and {more} more"] if more > 0 else [])


def _ending(service: PredictedService) -> str:
    match service.ending:
        case Ending.DONE:
            return f"done after about {spelt(service.duration or timedelta(0))}"
        case Ending.HELD:
            return "on hold"
        case Ending.UNFINISHED:
            return "not done as far as could be looked ahead"


def spelt(duration: timedelta) -> str:
    """Return a duration to the second."""
    return format_duration(timedelta(seconds=round(duration.total_seconds())))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def _sum(counts: Mapping[str, int]) -> int:
    return sum(counts.values())
