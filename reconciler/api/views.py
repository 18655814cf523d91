"""What the status page shows, worked out from the status: templates only place it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.api.wording import ago, span, staging_text
from specs.analysis import Outcome
from specs.memory import Event
from specs.staging import StagingState
from specs.status import (
    CellState,
    ClusterStatus,
    Condition,
    Health,
    Phase,
    ServiceStatus,
    Sync,
    TrafficStatus,
)

STALE = timedelta(seconds=30)
"""An observation this old is worth a warning: the daemon looks every few seconds."""

TONES: Mapping[str, str] = {
    Health.HEALTHY: "good",
    Health.PROGRESSING: "busy",
    Health.PAUSED: "busy",
    Health.DEGRADED: "bad",
    Health.MISSING: "bad",
    Health.SUSPENDED: "quiet",
    Health.UNKNOWN: "quiet",
    Sync.SYNCED: "good",
    Sync.OUT_OF_SYNC: "busy",
    Sync.UNKNOWN: "quiet",
}
VERDICT_TONES: Mapping[Outcome, str] = {
    Outcome.PASSING: "good",
    Outcome.FAILING: "bad",
    Outcome.INCONCLUSIVE: "busy",
}
STAGING_TONES: Mapping[StagingState, str] = {
    StagingState.RUNNING: "busy",
    StagingState.DONE: "good",
    StagingState.FAILED: "warn",
}
URGENCY = {"bad": 0, "busy": 1, "quiet": 2, "good": 3}


@dataclass(frozen=True, kw_only=True)
class Share:
    """One revision of a service: its part of the requests, and how it does. `start` is where its bar begins."""

    revision: str
    role: str
    weight: float
    start: float
    traffic: TrafficStatus | None

    @property
    def error_rate(self) -> float:
        """Return errors in percent of the requests."""
        if self.traffic is None or not self.traffic.requests:
            return 0.0
        return 100 * self.traffic.errors / self.traffic.requests


@dataclass(frozen=True, kw_only=True)
class StepMark:
    """One place on the steps' track: `done`, `current` or `ahead`."""

    number: int
    state: str


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One cell and its role."""

    state: CellState
    role: str
    tone: str


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A message that may be long: its most telling line, and the whole of it when there is more."""

    line: str
    rest: str


@dataclass(frozen=True, kw_only=True)
class ServiceView:
    """One service's card; `tone` is its overall one: a quarantine or a broken file needs a person, too."""

    status: ServiceStatus
    tone: str
    health_tone: str
    sync_tone: str
    shares: tuple[Share, ...]
    track: tuple[StepMark, ...]
    cells: tuple[CellView, ...]
    message: Excerpt
    quarantine: Condition | None
    quarantine_message: Excerpt
    spec_problem: str
    analysis_tone: str
    staging_tone: str
    staging_text: str
    staging_message: str

    @property
    def zones(self) -> tuple[str, ...]:
        """Return the zones that its cells are in."""
        return tuple(sorted({cell.state.zone for cell in self.cells if cell.state.zone}))

    @property
    def aborted(self) -> int:
        """Return the requests that clients gave up."""
        return sum(traffic.aborted for traffic in self.status.traffic.values())

    @property
    def unrouted(self) -> int:
        """Return the requests that no replica could take."""
        return sum(traffic.unrouted for traffic in self.status.traffic.values())


@dataclass(frozen=True, kw_only=True)
class PageView:
    """The whole page."""

    cluster: ClusterStatus
    services: tuple[ServiceView, ...]
    events: tuple[Event, ...]
    tally: tuple[tuple[str, str, int], ...]
    """(label, tone, how many) per health that occurs."""
    warnings: tuple[str, ...]

    @property
    def title(self) -> str:
        """Return the browser tab's title: what is wrong comes first."""
        troubled = sum(1 for service in self.services if service.tone == "bad")
        prefix = f"({troubled}!) " if troubled else ""
        return f"{prefix}{self.cluster.cluster} · Heliostat"


def page_view(cluster: ClusterStatus, events: tuple[Event, ...], now: datetime) -> PageView:
    """Return what the page shows; services that need a person come first."""
    services = tuple(service_view(service) for service in cluster.services)
    by_urgency = sorted(services, key=lambda view: (URGENCY[view.tone], view.status.name))
    healths = [service.health for service in cluster.services]
    return PageView(
        cluster=cluster,
        services=tuple(by_urgency),
        events=events,
        tally=tuple((health.value, TONES[health], healths.count(health)) for health in Health if health in healths),
        warnings=warnings(cluster, now),
    )


def service_view(status: ServiceStatus) -> ServiceView:
    """Return one service's card."""
    quarantine = _condition(status, "Quarantined", "True") if status.quarantined else None
    invalid = _condition(status, "SpecValid", "False")
    tone = "busy" if _is_first_deployment(status) else TONES[status.health]
    return ServiceView(
        status=status,
        tone="bad" if tone == "good" and (quarantine or invalid) else tone,
        health_tone=tone,
        sync_tone=TONES[status.sync],
        shares=_shares(status),
        track=_track(status),
        cells=tuple(_cell(status, cell) for cell in status.cells),
        message=excerpt(status.message),
        quarantine=quarantine,
        quarantine_message=excerpt(quarantine.message if quarantine else ""),
        spec_problem=invalid.message if invalid else "",
        analysis_tone=VERDICT_TONES[status.analysis.outcome] if status.analysis else "",
        staging_tone=STAGING_TONES[status.staging.state] if status.staging else "",
        staging_text=staging_text(status.staging) if status.staging else "",
        staging_message=excerpt(status.staging.message).line if status.staging else "",
    )


def sight(cluster: ClusterStatus, now: datetime) -> str:
    """Return how the cluster was last seen; a look that failed is no sight of it."""
    if cluster.observed_at is None:
        return "not seen yet"
    when = ago(cluster.observed_at, now)
    return f"seen {when}" if cluster.complete else f"not all seen ({when})"


def role_of(status: ServiceStatus, revision: str) -> str:
    """Return what a revision is to its service now."""
    if revision == status.stable:
        return "stable"
    if revision == status.candidate:
        return "candidate"
    return "quarantined" if revision in status.quarantined else "outgoing"


def excerpt(message: str) -> Excerpt:
    """Return a message's most telling line: a traceback's last one, else the first."""
    lines = [line for line in message.splitlines() if line.strip()]
    if len(lines) <= 1 and len(message) <= 240:
        return Excerpt(line=message.strip(), rest="")
    is_traceback = any("Traceback (most recent call last)" in line for line in lines)
    telling = (lines[-1] if is_traceback else lines[0]).strip()
    return Excerpt(line=telling if len(telling) <= 240 else telling[:239] + "…", rest=message.strip())


def _is_first_deployment(status: ServiceStatus) -> bool:
    """Return whether nothing serves because nothing ever did: no reason for alarm."""
    return status.health is Health.MISSING and status.phase is Phase.DEPLOYING


def _shares(status: ServiceStatus) -> tuple[Share, ...]:
    known = [status.stable, status.candidate, *status.weights, *status.traffic]
    shares, start = [], 0.0
    for revision in dict.fromkeys(revision for revision in known if revision):
        weight = status.weights.get(revision, 0.0)
        share = Share(
            revision=revision,
            role=role_of(status, revision),
            weight=weight,
            start=start,
            traffic=status.traffic.get(revision),
        )
        shares.append(share)
        start += weight
    return tuple(shares)


def _track(status: ServiceStatus) -> tuple[StepMark, ...]:
    step = status.step
    if step is None:
        return ()

    def state(index: int) -> str:
        return "done" if index < step.index else "current" if index == step.index else "ahead"

    # One more mark than steps: after the last step comes 100%.
    return tuple(StepMark(number=index + 1, state=state(index)) for index in range(step.count + 1))


def _cell(status: ServiceStatus, cell: CellState) -> CellView:
    tones = {"RUNNING": "good", "UNHEALTHY": "bad", "DEPLOY_FAILED": "bad", "MISSING": "bad", "DELETING": "quiet"}
    return CellView(state=cell, role=role_of(status, cell.revision), tone=tones.get(cell.status, "busy"))


def _condition(status: ServiceStatus, kind: str, value: str) -> Condition | None:
    return next((entry for entry in status.conditions if entry.type == kind and entry.status == value), None)


def warnings(cluster: ClusterStatus, now: datetime) -> tuple[str, ...]:
    """Return what is wrong with the daemon's own view, with its age."""
    found = [cluster.problem] if cluster.problem else []
    if cluster.observed_at is None:
        found.append("Ray has not been seen yet")
    elif now - cluster.observed_at > STALE:
        found.append(f"Ray was last seen {span(now - cluster.observed_at)} ago; what is shown may be out of date")
    elif not cluster.complete and not cluster.problem:
        found.append("the last look at Ray was not complete; nothing is raised or removed until one is")
    if cluster.commit is None:
        found.append("no commit has been read yet")
    if not cluster.leader:
        found.append("another daemon acts on this cluster; this one only watches")
    return tuple(found)
