"""What others are told of a turn: events, and for each service how far its commit has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from specs.memory import Event
from specs.status import ClusterStatus, ServiceStatus, Sync
from specs.world import World

LONGEST_DESCRIPTION = 140
"""GitHub takes no more."""

NOTABLE = frozenset({"RolloutStarted", "Promoted", "RolledBack", "Removing", "PausedByOperator"})
"""What a channel of people is told besides warnings; machines are told everything."""


class CommitState(StrEnum):
    """How far a commit has come, in GitHub's words."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, kw_only=True)
class CommitReport:
    """The state of one service at one commit; `service` is "" for the commit as a whole."""

    sha: str
    service: str
    state: CommitState
    description: str


def commit_reports(status: ClusterStatus, world: World) -> tuple[CommitReport, ...]:
    """Return how far each service has come with the newest commit; and that a newer one is refused."""
    refused = tuple(
        CommitReport(sha=note.commit, service="", state=CommitState.FAILURE, description=_short(note.message))
        for note in world.notes
        if note.is_refused
    )
    if world.desired is None or not status.complete:
        return refused
    sha = world.desired.commit.sha
    wanted = {service.name for service in world.desired.services}
    reports = (
        CommitReport(
            sha=sha, service=service.name, state=_state(service), description=_short(service.message or service.reason)
        )
        for service in status.services
        if service.name in wanted or _is_invalid(service)
    )
    return (*refused, *reports)


def _state(service: ServiceStatus) -> CommitState:
    if _is_invalid(service) or (service.target in service.quarantined and service.candidate is None):
        return CommitState.FAILURE
    return CommitState.SUCCESS if service.sync is Sync.SYNCED else CommitState.PENDING


def _is_invalid(service: ServiceStatus) -> bool:
    return any(condition.type == "SpecValid" and condition.status == "False" for condition in service.conditions)


def _short(text: str) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= LONGEST_DESCRIPTION else line[: LONGEST_DESCRIPTION - 3] + "..."


def event_document(event: Event, cluster: str) -> Mapping[str, Any]:
    """Return an event as machines are told it."""
    return {
        "apiVersion": "heliostat.dev/event/v1",
        "cluster": cluster,
        "at": event.at.isoformat(),
        "service": event.service,
        "kind": event.kind,
        "message": event.message,
        "revision": event.revision,
        "by": event.by,
        "isWarning": event.is_warning,
    }


def slack_document(event: Event, cluster: str) -> Mapping[str, Any]:
    """Return an event as a line in a channel. What others wrote cannot mention anybody there."""
    line = f"{event.service or 'cluster'} ({cluster}): {event.kind}: {_short(event.message)}"
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(sign, name)
    return {"text": f"{':warning: ' if event.is_warning else ''}{line}"}


def notable(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return what people want to be told."""
    return tuple(event for event in events if event.is_warning or event.kind in NOTABLE)
