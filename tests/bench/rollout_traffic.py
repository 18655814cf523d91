"""Made-up rollouts for judging the judge: how requests arrive, how long they take, how many fail, who looks when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from specs.evidence import BUCKETS_PER_OCTAVE, OVERFLOW, SMALLEST, Evidence, LatencyCounts, Window

Floats = NDArray[np.float64]
Latencies = Callable[[np.random.Generator, int], Floats]
"""Draws so many latencies in seconds."""
Arrivals = Callable[[np.random.Generator, int], NDArray[np.int64]]
"""Draws how many requests the candidate gets between two looks, until they are so many."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """One revision: its latencies, and the share of its requests that fail."""

    latencies: Latencies
    error_rate: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What happens to both revisions alike as time goes by, by the share of the rollout that is over."""

    slower: Callable[[Floats], Floats] = np.ones_like
    more_errors: Callable[[Floats], Floats] = np.ones_like


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A rollout: `requests` of them to the candidate in steps of equal length, one for each of its `shares`."""

    candidate: Behaviour
    stable: Behaviour
    arrivals: Arrivals
    shares: tuple[float, ...] = (0.1,)
    requests: int = 20_000
    drift: Drift = field(default_factory=Drift)
    warm_up: Drift = field(default_factory=Drift)
    """What happens to the candidate only."""


def lognormal(median: float, sigma: float) -> Latencies:
    """Return latencies of one kind of work: `sigma` of 0.5 is a steady service, 1 a heavy tail."""
    return lambda draw, count: median * np.exp(sigma * draw.standard_normal(count))


def bimodal(fast: Latencies, slow: Latencies, slow_share: float) -> Latencies:
    """Return latencies of a service with a cache that `slow_share` of the requests miss."""
    return lambda draw, count: np.where(draw.random(count) < slow_share, slow(draw, count), fast(draw, count))


def pareto(least: float, shape: float) -> Latencies:
    """Return latencies with a power-law tail: below a `shape` of 2 not even the variance is finite."""
    return lambda draw, count: least * (1 + draw.pareto(shape, count))


def in_milliseconds(latencies: Latencies) -> Latencies:
    """Return them as HAProxy's log has them: whole milliseconds, cut off."""
    return lambda draw, count: np.floor(latencies(draw, count) * 1000) / 1000


def trickle(draw: np.random.Generator, total: int) -> NDArray[np.int64]:
    """Some twenty requests at each look."""
    return draw.poisson(20, total // 20)


def steady(draw: np.random.Generator, total: int) -> NDArray[np.int64]:
    """A hundred requests at each look, more or less."""
    return draw.poisson(100, total // 100)


def bursts(draw: np.random.Generator, total: int) -> NDArray[np.int64]:
    """Nothing at most looks, then many at once."""
    return draw.poisson(draw.gamma(0.2, 500, total // 100))


def waves(draw: np.random.Generator, total: int) -> NDArray[np.int64]:
    """More and less, five times up and down."""
    looks = total // 100
    return draw.poisson(100 + 90 * np.sin(np.linspace(0, 10 * np.pi, looks)))


def looks(scenario: Scenario, seed: int) -> Iterator[tuple[Window, ...]]:
    """Tell one rollout: at each look the windows so far, one per step."""
    draw = np.random.default_rng(seed)
    for_candidate = scenario.arrivals(draw, scenario.requests)
    steps = np.array_split(for_candidate, len(scenario.shares))
    past = np.array_split(np.linspace(0, 1, len(for_candidate)), len(scenario.shares))
    ended: tuple[Window, ...] = ()
    for share, arrivals, when in zip(scenario.shares, steps, past, strict=True):
        for_stable = draw.poisson(arrivals * (1 - share) / share)
        course = _Course.of(scenario.drift, when)
        candidate = _told(draw, scenario.candidate, arrivals, course * _Course.of(scenario.warm_up, when))
        stable = _told(draw, scenario.stable, for_stable, course)
        window = Window(candidate=Evidence(), stable=Evidence())
        for mine, theirs in zip(candidate, stable, strict=True):
            window = Window(candidate=mine, stable=theirs)
            yield (*ended, window)
        ended = (*ended, window)


@dataclass(frozen=True, kw_only=True)
class _Course:
    slower: Floats
    more_errors: Floats

    @classmethod
    def of(cls, drift: Drift, past: Floats) -> _Course:
        return cls(slower=drift.slower(past), more_errors=drift.more_errors(past))

    def __mul__(self, other: _Course) -> _Course:
        return _Course(slower=self.slower * other.slower, more_errors=self.more_errors * other.more_errors)


def _told(
    draw: np.random.Generator, behaviour: Behaviour, arrivals: NDArray[np.int64], course: _Course
) -> Iterator[Evidence]:
    """Tell one revision's counters at each look of a step."""
    seconds = behaviour.latencies(draw, int(arrivals.sum())) * np.repeat(course.slower, arrivals)
    failed = draw.random(len(seconds)) < behaviour.error_rate * np.repeat(course.more_errors, arrivals)
    buckets = buckets_of(seconds)
    counts = np.zeros(OVERFLOW + 1, dtype=np.int64)
    start = errors = 0
    for end in np.cumsum(arrivals).tolist():
        np.add.at(counts, buckets[start:end], 1)
        errors += int(np.count_nonzero(failed[start:end]))
        start = end
        yield Evidence(requests=end, errors=errors, latency=histogram(counts))


def buckets_of(seconds: Floats) -> NDArray[np.int64]:
    """Return `specs.evidence.bucket_of` of each."""
    places = np.ceil(np.log2(np.maximum(seconds, SMALLEST) / SMALLEST) * BUCKETS_PER_OCTAVE - 1e-9)
    return np.minimum(places, OVERFLOW).astype(np.int64)


def histogram(counts: NDArray[np.int64]) -> LatencyCounts:
    """Return counts per bucket as a value."""
    filled = np.flatnonzero(counts)
    return LatencyCounts(buckets=tuple(zip(filled.tolist(), counts[filled].tolist(), strict=True)))


def widened(latencies: Callable[[float], Latencies], spread: float, rise: float, quantile: float = 0.99) -> Latencies:
    """Return latencies of the same family, wider, so that the mean stays and the quantile rises by `rise`.

    `latencies(s)` is the family, `latencies(spread)` the one to start from. Both are found on the same million draws,
    scaled to the same mean.
    """
    draws = 1_000_000
    base = latencies(spread)(np.random.default_rng(0), draws)
    wanted = np.quantile(base, quantile) * (1 + rise)
    low, high = spread, spread * 4
    for _ in range(30):
        middle = (low + high) / 2
        drawn = latencies(middle)(np.random.default_rng(0), draws)
        reached = np.quantile(drawn, quantile) * base.mean() / drawn.mean()
        low, high = (middle, high) if reached < wanted else (low, middle)
    drawn = latencies(low)(np.random.default_rng(0), draws)
    reached = np.quantile(drawn, quantile) * base.mean() / drawn.mean()
    if abs(reached / wanted - 1) > 0.01:
        raise ValueError(
            f"no spread raises this quantile to {wanted:.3f} s at the same mean: {reached:.3f} s is reached"
        )
    factor = base.mean() / drawn.mean()
    return lambda draw, count: factor * latencies(low)(draw, count)


def same(scenario: Scenario) -> Scenario:
    """Return the scenario with a candidate that behaves as the stable revision does."""
    return replace(scenario, candidate=scenario.stable)
