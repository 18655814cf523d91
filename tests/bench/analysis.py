"""How often the analysis is wrong, how soon it is right, and what a look costs."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np

from policies.analysis import judge, with_bounds
from specs.analysis import AnalysisSettings, Latency, Outcome, SuccessRate, Unit
from specs.evidence import Evidence, LatencyCounts, Window
from tests.bench import report
from tests.bench.analysis_scenarios import (
    EQUAL_ROLLOUTS,
    ERROR_RATES,
    QUANTILE_RISES,
    RISES,
    SHARES,
    SLOW_FIRST_MINUTE,
    WIDENED,
    equal_rollout,
)
from tests.bench.rollout_traffic import Scenario, looks
from tests.bench.sticky_traffic import KINDS, SLOWER, SLOWER_KINDS, Sticky, sticky_looks

Rollout = Callable[[int], Iterator[tuple[Window, ...]]]
"""Tells the rollout of a seed."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """So many rollouts of a kind, each judged at every look until it fails."""

    rollout: Rollout
    runs: int
    settings: AnalysisSettings


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of one rollout. `after` are the candidate's requests when it failed, None when it did not."""

    after: int | None
    looks: int


_studies: dict[str, Study] = {}
"""Scenarios hold functions, which do not travel between processes: workers inherit them."""


def run() -> None:
    """Measure and write docs/benchmarks/analysis.md."""
    _studies.update(_all_studies())
    started = time.perf_counter()
    with get_context("fork").Pool(os.cpu_count()) as pool:
        tasks = [(name, seed) for name, study in _studies.items() for seed in range(study.runs)]
        results = pool.map(_judged, tasks, chunksize=5)
    found: dict[str, list[Found]] = {name: [] for name in _studies}
    for (name, _), one in zip(tasks, results, strict=True):
        found[name].append(one)
    print(f"{len(tasks)} rollouts in {time.perf_counter() - started:.0f} s", flush=True)
    report.write("analysis", "Analysis", _sections(found, _tick()))


def _judged(task: tuple[str, int]) -> Found:
    name, seed = task
    study = _studies[name]
    count = 0
    for windows in study.rollout(seed):
        count += 1
        if judge(windows, study.settings).outcome is Outcome.FAILING:
            return Found(after=sum(window.candidate.requests for window in windows), looks=count)
    return Found(after=None, looks=count)


def _told(scenario: Scenario) -> Rollout:
    return lambda seed: looks(scenario, seed)


def _all_studies() -> dict[str, Study]:
    """Name the studies by section and row; seeds differ between studies only where scenarios do."""
    both = AnalysisSettings(success_rate=SuccessRate(minimum=0.95))
    by_client = AnalysisSettings(unit=Unit.CLIENT)
    studies = {
        "equal": Study(rollout=lambda seed: looks(equal_rollout(seed), seed), runs=EQUAL_ROLLOUTS, settings=both)
    }
    for (before, after, share), scenario in ERROR_RATES.items():
        studies[f"errors {before} {after} {share}"] = Study(rollout=_told(scenario), runs=400, settings=both)
    for (family, share), scenario in WIDENED.items():
        studies[f"widened {family} {share}"] = Study(rollout=_told(scenario), runs=200, settings=both)
    for (rise, requests), scenario in RISES.items():
        studies[f"rise {rise} {requests}"] = Study(rollout=_told(scenario), runs=100, settings=both)
    for (quantile, rise), scenario in QUANTILE_RISES.items():
        asked = replace(both, latency=Latency(quantile=quantile))
        studies[f"quantile {quantile} {rise}"] = Study(rollout=_told(scenario), runs=200, settings=asked)
    for name, scenario in SLOW_FIRST_MINUTE.items():
        studies[f"warm {name}"] = Study(rollout=_told(scenario), runs=200, settings=both)
    for kind, traffic in KINDS.items():
        for unit in Unit:
            asked = replace(by_client, unit=unit)
            studies[f"sticky 1 {unit} {kind}"] = Study(rollout=_stuck(traffic, 1), runs=300, settings=asked)
            studies[f"sticky 8 {unit} {kind}"] = Study(rollout=_stuck(traffic, 8), runs=100, settings=asked)
    for kind in SLOWER_KINDS:
        for rise in SLOWER:
            slower = _stuck(KINDS[kind], 1, rise)
            studies[f"slower {rise} {kind}"] = Study(rollout=slower, runs=100, settings=by_client)
    return studies


def _stuck(traffic: Sticky, worse: float, slower: float = 1) -> Rollout:
    return lambda seed: sticky_looks(seed, traffic, worse=worse, slower=slower)


def _tick() -> dict[str, list[tuple[float, float]]]:
    """Return milliseconds to judge 200 services once, for services in their first step and in their third."""
    ticks: dict[str, list[tuple[float, float]]] = {}
    for steps, shares in ((1, (0.1,)), (3, (0.1, 0.25, 0.5))):
        services = []
        for number in range(200):
            scenario = replace(equal_rollout(number), shares=shares, requests=6_000)
            *_, windows = looks(scenario, number)
            services.append(windows)
        name = f"{steps} windows" if steps > 1 else "1 window"
        ticks[name] = [_timed(services, _look) for _ in range(30)]
        ticks[f"{name}, read with all bounds"] = [_timed(services, _read) for _ in range(5)]
        sticky = [_last(sticky_looks(number, Sticky(shares=shares, requests=12_000))) for number in range(200)]
        ticks[f"{name}, by clients"] = [_timed(sticky, _look) for _ in range(30)]
    return ticks


def _last(rollout: Iterator[tuple[Window, ...]]) -> tuple[Window, ...]:
    *_, windows = rollout
    return windows


def _look(windows: Sequence[Window], settings: AnalysisSettings) -> None:
    judge(windows, settings)


def _read(windows: Sequence[Window], settings: AnalysisSettings) -> None:
    with_bounds(judge(windows, settings), windows, settings)


def _timed(
    services: Sequence[Sequence[Window]], look: Callable[[Sequence[Window], AnalysisSettings], None]
) -> tuple[float, float]:
    """Return milliseconds that passed, and those that the processor worked for it."""
    settings = AnalysisSettings(success_rate=SuccessRate(minimum=0.99))
    if any(windows[-1].candidate.clients for windows in services):
        settings = replace(settings, unit=Unit.CLIENT)
    services = [(*windows[:-1], _counted_anew(windows[-1])) for windows in services]
    gc.collect()  # The daemon spares what is there (`reconciler.garbage`), and two hundred simulated gateways are not
    gc.freeze()  # its to walk through.
    started, worked = time.perf_counter(), time.process_time()
    for windows in services:
        look(windows, settings)
    return (time.perf_counter() - started) * 1000, (time.process_time() - worked) * 1000


def _counted_anew(window: Window) -> Window:
    """Return the window as a look finds it: what it goes on in has other counts each time, and nothing summed up."""
    candidate, stable = map(_unsummed, _both(window))
    return Window(candidate=candidate, stable=stable)


def _unsummed(evidence: Evidence) -> Evidence:
    clients = tuple(_unsummed(group) for group in evidence.clients)
    return replace(evidence, latency=LatencyCounts(buckets=evidence.latency.buckets), clients=clients)


def _both(window: Window) -> tuple[Evidence, Evidence]:
    return window.candidate, window.stable


def _sections(found: dict[str, list[Found]], ticks: dict[str, list[tuple[float, float]]]) -> list[str]:
    errors = [[f"{share:.0%}", *_power(found[f"errors 0.01 0.03 {share}"], 3_000)] for share in SHARES]
    wide = [[family, f"{share:.0%}", *_power(found[f"widened {family} {share}"], 10_000)] for family, share in WIDENED]
    rises = [[f"{rise:+.0%}", f"{requests:,}", _share(found[f"rise {rise} {requests}"])] for rise, requests in RISES]
    warm = [[name, _share(found[f"warm {name}"])] for name in SLOW_FIRST_MINUTE]
    looked = sum(one.looks for one in found["equal"])
    head = ["found", "median requests", "9 of 10 within"]
    return [
        "Simulated rollouts, judged at every look by what the daemon uses (`policies/analysis`); the seeds are fixed. "
        "Counts of requests are those of the candidate. Definitions and settings are in [analysis](../analysis.md).",
        "## Figures to reach",
        report.table(["figure", "goal", "measured"], _goals(found, ticks)),
        "## Equal candidates",
        f"{EQUAL_ROLLOUTS:,} rollouts with 20,000 requests to the candidate and as many more to the stable revision as "
        f"its share asks for, {looked:,} looks in all. Latencies lognormal (0.5 and 1 wide), bimodal, power law and in "
        "whole milliseconds; 0.1% to 20% errors; shares of 5%, 10%, 50% and 10-25-50%; requests by the few, steady, in "
        "bursts and in waves; level, doubling and swinging latencies and error rates of both.",
        report.table(["rollouts", "rolled back", "share"], [_counted(found["equal"])]),
        "## Three times the errors",
        "1% of the stable revision's requests fail and 3% of the candidate's; at most 3,000 requests.",
        report.table(["candidate's share", *head], errors),
        "## A wider spread at the same mean",
        "p99 30% higher, mean equal, `maxIncrease: 30%`; at most 10,000 requests.",
        report.table(["latencies", "candidate's share", *head], wide),
        "## What `maxIncrease: 30%` lets through",
        "All latencies of the candidate higher by the same factor (lognormal, 0.5 wide, a share of 10%).",
        report.table(["increase", "requests", "rolled back"], rises),
        "## Requests needed",
        "A share of 10%. The request rate is that of the whole service with which nine of ten regressions are found "
        "within ten minutes.",
        report.table(["regression", "median requests", "9 of 10 within", "requests/s"], _needed(found)),
        "## A slow first minute",
        "An equal candidate three times as slow at its start, which wears off within a minute; 10 minutes at 20 "
        "requests/s to it. The fresh baseline is as many stable replicas, started with it.",
        report.table(["compared with", "rolled back"], warm),
        *_sticky_sections(found),
        "## One look at 200 services",
        "A window for each division of the traffic so far; thirty looks. The bounds of each effect are reckoned when "
        "somebody reads the status, not at each look. Other work on the machine makes the time that "
        "passes longer than the processor's.",
        report.table(
            ["each with", "median ms", "longest ms", "median ms of processor time"],
            [[name, *_times(took)] for name, took in ticks.items()],
        ),
    ]


def _sticky_sections(found: dict[str, list[Found]]) -> list[str]:
    sticky = [
        [kind, *(_share(found[f"sticky {worse} {unit} {kind}"]) for worse in (1, 8) for unit in Unit)] for kind in KINDS
    ]
    slower = [
        [kind, *(_share(found[f"slower {rise} {kind}"]) for rise in SLOWER), _middle(found, kind)]
        for kind in SLOWER_KINDS
    ]
    return [
        "## Sticky traffic",
        "40,000 requests of clients who stay on their revision. 1% of them see 60% errors and the others 0.4%, and "
        "clients differ in latency and in how much they ask; where nothing else fails 0.5% see nothing but errors "
        "and the others hardly any. Of 5 to 30 clients 10% or 20% see nothing but errors; where all others are within "
        "some 7% of each other, 0.5% take 1.4 times as long and fail no more often. Beside them a candidate that is "
        "bad to eight times as many of its clients. Rolled back of 300 equal and of 100 worse candidates, judged by "
        "request and by client:",
        report.table(
            ["clients", "equal, by request", "equal, by client", "worse, by request", "worse, by client"], sticky
        ),
        "### Slower for everybody, by client",
        "The same traffic; all latencies of the candidate are longer by a factor, p99 with them, and `maxIncrease` is "
        "30%. Rolled back of 100 each, and the candidate's requests by which half of those twice as slow were:",
        report.table(["clients", *(f"{rise:g} times" for rise in SLOWER), "median requests, 2 times"], slower),
    ]


def _middle(found: dict[str, list[Found]], kind: str) -> str:
    return _power(found[f"slower {SLOWER[-1]} {kind}"], 0)[1]


def _goals(found: dict[str, list[Found]], ticks: dict[str, list[tuple[float, float]]]) -> list[list[object]]:
    worst_errors = min(_rate(found[f"errors 0.01 0.03 {share}"]) for share in SHARES)
    usual = [_rate(found[name]) for name in found if name.startswith("widened lognormal, 0.5")]
    stuck = [_rate(found[f"sticky 1 {Unit.CLIENT} {kind}"]) for kind in KINDS]
    every = [_rate(found[name]) for name in found if name.startswith("widened")]
    return [
        ["false rollbacks of equal candidates", "<= 1%", _share(found["equal"])],
        ["the same with sticky traffic, the worst of its kinds", "<= 1%", f"{max(stuck):.1%}"],
        ["errors 1% to 3% found within 3,000 requests, the worst share", ">= 95%", f"{worst_errors:.1%}"],
        ["p99 +30% found within 10,000, lognormal 0.5 wide, the worst share", ">= 90%", f"{min(usual):.1%}"],
        ["the same, the worst of all latencies and shares", ">= 90%", f"{min(every):.1%}"],
        [
            "one look at 200 services, one window each, processor time",
            "<= 100 ms",
            f"{statistics.median(worked for _, worked in ticks['1 window']):.0f} ms",
        ],
        [
            "one look at 200 services, three windows each, processor time",
            "<= 100 ms",
            f"{statistics.median(worked for _, worked in ticks['3 windows']):.0f} ms",
        ],
        [
            "the same with sticky traffic, processor time",
            "<= 100 ms",
            f"{statistics.median(worked for _, worked in ticks['3 windows, by clients']):.0f} ms",
        ],
    ]


def _times(took: list[tuple[float, float]]) -> list[str]:
    passed, worked = [one for one, _ in took], [one for _, one in took]
    return [f"{value:.0f}" for value in (statistics.median(passed), max(passed), statistics.median(worked))]


def _needed(found: dict[str, list[Found]]) -> Iterable[list[object]]:
    for before, after, share in ERROR_RATES:
        if share == 0.1:
            yield _need(f"errors {before:.1%} to {after:.1%}", found[f"errors {before} {after} {share}"])
    for quantile, rise in QUANTILE_RISES:
        yield _need(f"p{100 * quantile:g} {rise:+.0%}, all latencies", found[f"quantile {quantile} {rise}"])


def _need(name: str, all_found: list[Found]) -> list[object]:
    after = sorted(math.inf if one.after is None else one.after for one in all_found)
    median, most = (after[math.ceil(part * len(after)) - 1] for part in (0.5, 0.9))
    rate = "more than simulated" if math.isinf(most) else f"{most / 0.1 / 600:.0f}"
    return [name, _number(median), _number(most), rate]


def _power(all_found: list[Found], most: int) -> list[str]:
    after = sorted(math.inf if one.after is None else one.after for one in all_found)
    middle, late = (after[math.ceil(part * len(after)) - 1] for part in (0.5, 0.9))
    return [f"{_rate(all_found):.1%}", _number(middle), _number(late)]


def _number(count: float) -> str:
    return "not found" if math.isinf(count) else f"{count:,.0f}"


def _rate(all_found: list[Found]) -> float:
    return float(np.mean([one.after is not None for one in all_found]))


def _share(all_found: list[Found]) -> str:
    return f"{_rate(all_found):.1%}"


def _counted(all_found: list[Found]) -> list[object]:
    failed = sum(one.after is not None for one in all_found)
    return [f"{len(all_found):,}", failed, _share(all_found)]
