"""Prometheus metrics: what a tick saw and did, under the names that dashboards rely on.

What is true at the moment (weights, replicas, conditions, ages) is derived from the last tick when it is
scraped, so that a service that is gone leaves no stale series; what happened is counted as it happens.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reconciler.planning.plan import Plan
from specs.cells import CellKey, parse_cell_name
from specs.compaction import CompactionStatus
from specs.decisions import FallBack, NoteDrift, RestoreCell, RollBack
from specs.effects import Effect, PutServeConfig, ScaleDeployment, UploadPackage
from specs.observed import Node, Observed, ReplicaState
from specs.placement import MARKET_LABEL
from specs.reasons import Reason
from specs.status import ClusterStatus, ServiceStatus
from specs.wishes import Advice
from specs.world import World

PHASE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FIRST_EFFECT_BUCKETS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 5, 10, 30, 60, 120, 300)
CONDITION_VALUES = {"True": 1.0, "False": 0.0}
UNKNOWN = -1.0
"""The value of a condition that is neither True nor False."""


class ResultsSeen(Protocol):
    """What became of a tick's effects."""

    @property
    def problems(self) -> Mapping[str, tuple[Reason, str]]:
        """Why effects failed, per service."""

    @property
    def done(self) -> Iterable[Effect]:
        """The effects that were done."""

    @property
    def is_saved(self) -> bool:
        """Whether Memory was saved."""


class TickSeen(Protocol):
    """One turn of the loop."""

    @property
    def world(self) -> World:
        """What was seen."""

    @property
    def plan(self) -> Plan:
        """What was decided."""

    @property
    def results(self) -> ResultsSeen:
        """What was done."""

    @property
    def status(self) -> ClusterStatus:
        """What is reported."""


@runtime_checkable
class Timed(Protocol):
    """A tick that tells how long each of its phases took, in the order they were run."""

    @property
    def timings(self) -> Mapping[str, timedelta]:
        """Durations by phase: observe, plan, apply, report."""


class HistogramSeen(Protocol):
    """One cell's latencies; `buckets` are (upper bound in seconds, count up to it), the last bound infinite."""

    @property
    def cell(self) -> str:
        """The cell's name."""

    @property
    def buckets(self) -> tuple[tuple[float, int], ...]:
        """Cumulative counts."""

    @property
    def total(self) -> float:
        """The sum of all latencies in seconds."""


class TrafficSource(Protocol):
    """What the gateway counts."""

    def codes(self) -> Mapping[str, Mapping[str, int]]:
        """Return answers per cell and code class."""

    def histograms(self) -> Iterable[HistogramSeen]:
        """Return latency per cell."""

    def crossings(self) -> Mapping[str, Mapping[str, int]]:
        """Return requests per cell by where they were answered; nothing when the gateway has no zone of its own."""

    def cross_zone(self) -> Mapping[str, float]:
        """Return the share of each service's requests that left the gateway's zone lately."""


class CompactionSource(Protocol):
    """What compaction has come to."""

    @property
    def status(self) -> CompactionStatus:
        """What it does, and its last plan."""


class Metrics:
    """All metrics of the daemon, in a registry of their own."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        # A second series for each counter that nobody asks for. The library gives this function no types.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "heliostat_reconcile_duration_seconds",
            "Time that a phase of a tick takes.",
            ["phase"],
            buckets=PHASE_BUCKETS,
            registry=self._registry,
        )
        self._ticks = self._counter("reconcile", "Ticks by outcome: ok, blind (not all was seen), failed.", "outcome")
        self._first_effect = Histogram(
            "heliostat_commit_to_first_effect_seconds",
            "From a commit's time to the first change on Ray that it leads to.",
            buckets=FIRST_EFFECT_BUCKETS,
            registry=self._registry,
        )
        self._git = self._counter("git_requests", "Requests to the repository.", "kind", "outcome")
        self._webhooks = self._counter("webhooks", "Webhooks received.", "sender", "outcome")
        self._notifications = self._counter("notifications", "Messages to others.", "form", "outcome")
        self._rollouts = self._counter("rollouts", "Ended rollouts.", "service", "outcome")
        self._rollbacks = self._counter("rollbacks", "Rollbacks.", "service", "reason")
        self._drift = self._counter("drift", "Changes in Serve that somebody else made.", "service", "field")
        self._preemptions = self._counter("preemption_notices", "Notices that a node is about to be taken away.")
        self._advice = self._counter(
            "policy_answers", "What policies of other packages said of services: wish or failed.", "policy", "outcome"
        )
        self._advised: dict[tuple[str, str], datetime] = {}
        self._last = _LastTick()
        self._registry.register(self._last)
        self._commit: str | None = None
        self._awaited: datetime | None = None
        ProcessCollector(registry=self._registry)

    def observe_tick(self, tick: TickSeen, gateway: TrafficSource | None = None) -> None:
        """Take in one tick; `gateway` is asked for its counters when metrics are scraped."""
        timings = tick.timings if isinstance(tick, Timed) else {}
        for phase, duration in timings.items():
            self._seconds.labels(phase).observe(duration.total_seconds())
        self._ticks.labels(_outcome(tick)).inc()
        if tick.results.is_saved:
            self._count_decisions(tick.plan)
        self._count_advice(tick.world.observed.outward.advice)
        since_seen = sum((duration for phase, duration in timings.items() if phase != "observe"), timedelta())
        self._measure_first_effect(tick, tick.world.now + since_seen)
        self._last.take(tick, gateway)

    def _count_advice(self, advice: Iterable[Advice]) -> None:
        """Count each answer once: it is seen until the next one comes."""
        for said in advice:
            if self._advised.get((said.policy, said.service)) != said.at:
                self._advised[said.policy, said.service] = said.at
                self.count_answer(said)

    def count_answer(self, said: Advice) -> None:
        """Count one answer of a policy of another package."""
        self._advice.labels(said.policy, "failed" if said.problem else "wish").inc()

    def count_preemption(self) -> None:
        """Count one notice that a node is about to be taken away."""
        self._preemptions.inc()

    def watch_compaction(self, source: CompactionSource) -> None:
        """Ask compaction for its numbers whenever metrics are scraped."""
        self._last.compaction = source

    def count_git_request(self, kind: str, outcome: str) -> None:
        """Count one request to the repository (`kind`: query or fetch)."""
        self._git.labels(kind, outcome).inc()

    def count_webhook(self, sender: str, outcome: str) -> None:
        """Count one webhook: accepted, ignored, refused, malformed, too_large, or off."""
        self._webhooks.labels(sender, outcome).inc()

    def count_notification(self, form: str, outcome: str) -> None:
        """Count one message to others: told, failed, or dropped."""
        self._notifications.labels(form, outcome).inc()

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"heliostat_{name}", text, labels, registry=self._registry)

    def _count_decisions(self, plan: Plan) -> None:
        for entry in plan.history:
            self._rollouts.labels(entry.service, entry.outcome.value).inc()
        for service, decisions in plan.decisions.items():
            for decision in decisions:
                if isinstance(decision, RollBack | FallBack):
                    self._rollbacks.labels(service, decision.reason.value).inc()
                elif isinstance(decision, RestoreCell):
                    self._drift.labels(service, "cell").inc()
                elif isinstance(decision, NoteDrift):
                    self._drift.labels(service, decision.drift.field).inc()

    def _measure_first_effect(self, tick: TickSeen, now: datetime) -> None:
        """Measure commits that arrive while the daemon runs: at its start the newest one may be days old."""
        commit = tick.world.desired.commit if tick.world.desired else None
        if commit is not None and commit.sha != self._commit:
            self._awaited = commit.committed_at if self._commit else None
            self._commit = commit.sha
        if self._awaited is None:
            return
        if any(isinstance(effect, PutServeConfig | ScaleDeployment | UploadPackage) for effect in tick.results.done):
            self._first_effect.observe(max(0.0, (now - self._awaited).total_seconds()))
            self._awaited = None
        elif tick.plan.is_quiet:
            self._awaited = None


class _LastTick(Collector):
    """Everything that is true at the moment, worked out when it is scraped."""

    def __init__(self) -> None:
        self._tick: TickSeen | None = None
        self._gateway: TrafficSource | None = None
        self._complete_at: datetime | None = None
        self.compaction: CompactionSource | None = None

    def take(self, tick: TickSeen, gateway: TrafficSource | None) -> None:
        """Remember the tick."""
        self._tick, self._gateway = tick, gateway
        if tick.world.observed.complete:
            self._complete_at = tick.world.observed.at

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are known only with the values."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the families of the last tick."""
        tick = self._tick
        yield _gauge("leader", "1 while this daemon acts.", (), [((), float(bool(tick and tick.status.leader)))])
        if self.compaction is not None:
            yield from _compaction(self.compaction.status)
        if tick is None:
            return
        yield from self._ages(tick)
        yield from _services(tick.status.services, tick.world.observed)
        yield _nodes(tick.world.observed.nodes)
        if tick.world.observed.gateway is not None:
            reloads = CounterMetricFamily("heliostat_gateway_reloads", "Reloads of HAProxy.")
            reloads.add_metric((), tick.world.observed.gateway.reloads)
            yield reloads
        if self._gateway is not None:
            yield from _traffic(self._gateway)

    def _ages(self, tick: TickSeen) -> Iterator[Metric]:
        if tick.status.git_age_seconds is not None:
            value = tick.status.git_age_seconds
            yield _gauge("git_age_seconds", "Since the branch was last known to be as read.", (), [((), value)])
        if self._complete_at is not None:
            age = (tick.world.now - self._complete_at).total_seconds()
            yield _gauge("observation_age_seconds", "Since all of the cluster was last seen.", (), [((), age)])


def _outcome(tick: TickSeen) -> str:
    if tick.results.problems or not tick.results.is_saved:
        return "failed"
    return "ok" if tick.world.observed.complete else "blind"


Sample = tuple[tuple[str, ...], float]


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(f"heliostat_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _services(services: tuple[ServiceStatus, ...], observed: Observed) -> Iterator[Metric]:
    conditions = [
        ((service.name, condition.type), CONDITION_VALUES.get(condition.status, UNKNOWN))
        for service in services
        for condition in service.conditions
    ]
    weights = [
        ((service.name, revision), weight) for service in services for revision, weight in service.weights.items()
    ]
    replicas = [
        ((service.name, revision, state), float(count))
        for service in services
        for (revision, state), count in sorted(_replicas(service, observed).items())
    ]
    text = "1 true, 0 false, -1 unknown."
    yield _gauge("service_condition", text, ("service", "type"), conditions)
    yield _gauge("service_weight", "Percent of the service's requests.", ("service", "revision"), weights)
    yield _gauge("service_replicas", "Replicas by state.", ("service", "revision", "state"), replicas)


def _replicas(service: ServiceStatus, observed: Observed) -> Mapping[tuple[str, str], int]:
    counts: Tally[tuple[str, str]] = Tally()
    for cell in service.cells:
        for deployment in cell.deployments:
            counts[cell.revision, "target"] += deployment.target
            counts[cell.revision, "ready"] += deployment.ready
        seen = observed.cell(cell.name)
        for found in seen.deployments if seen else ():
            for state in ReplicaState:
                counts[cell.revision, state.value.lower()] += found.count(state)
    return counts


def _compaction(status: CompactionStatus) -> Iterator[Metric]:
    freed = CounterMetricFamily("heliostat_compaction_nodes_freed", "Nodes that compaction has freed.")
    freed.add_metric((), status.freed)
    yield freed
    if status.at is not None:
        costs = [(("now",), status.cost), (("planned",), status.cost_after), (("bound",), status.bound)]
        yield _gauge("compaction_cost", "Price of all nodes: now, by the plan, and at least.", ("kind",), costs)


def _nodes(nodes: tuple[Node, ...]) -> Metric:
    counts = Tally((node.zone or "", node.labels.get(MARKET_LABEL, ""), node.state) for node in nodes)
    samples = [(labels, float(count)) for labels, count in sorted(counts.items())]
    return _gauge("nodes", "Ray nodes.", ("zone", "market", "state"), samples)


def _traffic(gateway: TrafficSource) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "heliostat_gateway_requests",
        "Requests by class of the answer's code; `none`: no answer.",
        labels=("service", "revision", "zone", "code"),
    )
    totals: Tally[tuple[str, str, str, str]] = Tally()
    for cell, codes in gateway.codes().items():
        key = _key(cell)
        for code, count in codes.items():
            totals[key.service, key.revision, key.zone or "", code] += count
    for labels, count in sorted(totals.items()):
        requests.add_metric(labels, count)
    yield requests
    yield _durations(gateway.histograms())
    yield from _crossings(gateway)


def _crossings(gateway: TrafficSource) -> Iterator[Metric]:
    family = CounterMetricFamily(
        "heliostat_gateway_zone_requests",
        "Requests by where they were answered: near (in the gateway's own zone), far, unknown.",
        labels=("service", "revision", "side"),
    )
    totals: Tally[tuple[str, str, str]] = Tally()
    for cell, sides in gateway.crossings().items():
        key = _key(cell)
        for side, count in sides.items():
            totals[key.service, key.revision, side] += count
    for labels, count in sorted(totals.items()):
        family.add_metric(labels, count)
    yield family
    shares = [((service,), share) for service, share in sorted(gateway.cross_zone().items())]
    text = "Part of the last minute's requests that left the gateway's zone."
    yield _gauge("gateway_cross_zone_share", text, ("service",), shares)


def _durations(histograms: Iterable[HistogramSeen]) -> Metric:
    """Sum the histograms of a revision's cells: all cells share the same buckets."""
    buckets: dict[tuple[str, str], Tally[float]] = {}
    sums: Tally[tuple[str, str]] = Tally()
    for histogram in histograms:
        key = _key(histogram.cell)
        buckets.setdefault((key.service, key.revision), Tally()).update(dict(histogram.buckets))
        sums[key.service, key.revision] += histogram.total  # type: ignore[assignment]
    family = HistogramMetricFamily(
        "heliostat_gateway_request_duration_seconds",
        "Time to response headers, from sampled requests.",
        labels=("service", "revision"),
    )
    for labels, counts in sorted(buckets.items()):
        steps = [(_bound(bound), float(count)) for bound, count in sorted(counts.items())]
        family.add_metric(labels, steps, float(sums[labels]))
    return family


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else f"{bound:g}"


def _key(cell: str) -> CellKey:
    return parse_cell_name(cell) or CellKey(service=cell, revision="")
