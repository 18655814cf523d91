"""What is to be done to the outside world. A closed union, with no choices left in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from specs.compaction import CompactionMemory
from specs.desired import PackageRef
from specs.memory import Event, HistoryEntry, ServiceMemory
from specs.preemption import PreemptionMemory
from specs.routes import RouteTable
from specs.staging import StagingJob
from specs.world import World


@dataclass(frozen=True, kw_only=True)
class SaveMemory:
    """Save these services (and forget those), with the events and history that go with the change."""

    services: tuple[ServiceMemory, ...] = ()
    forgotten: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    compaction: CompactionMemory | None = None
    """None: as it was."""
    preemption: PreemptionMemory | None = None
    """None: as it was."""


@dataclass(frozen=True, kw_only=True)
class UploadPackage:
    """Make sure that the package of a folder is in the cluster."""

    service: str
    package: PackageRef


@dataclass(frozen=True, kw_only=True)
class ServeApplication:
    """One application of the document: `config` is the canonical JSON of its whole entry, counts included."""

    name: str
    config: str


@dataclass(frozen=True, kw_only=True)
class PutServeConfig:
    """Declare exactly `applications` of ours and none of `removed`; what is in neither is foreign and stays."""

    applications: tuple[ServeApplication, ...]
    removed: frozenset[str]
    may_cut_builds: bool = False


@dataclass(frozen=True, kw_only=True)
class ScaleDeployment:
    """Serve's per-deployment scale call."""

    service: str
    application: str
    deployment: str
    target: int


@dataclass(frozen=True, kw_only=True)
class SetRoutes:
    """Route every service as this table says, at once."""

    table: RouteTable


@dataclass(frozen=True, kw_only=True)
class PostQuestion:
    """Begin to ask a gate; its answer is seen at a later look. `body` is JSON, `failures` the tries before."""

    service: str
    gate: str
    url: str
    key: str
    failures: int
    body: str
    timeout: timedelta


@dataclass(frozen=True, kw_only=True)
class MeasureMetric:
    """Begin a measurement; its outcome is seen at a later look."""

    service: str
    slot: str
    query: str
    asked_at: datetime


@dataclass(frozen=True, kw_only=True, eq=False)
class ConsultPolicy:
    """Begin to ask a policy of another package about services; its advice is seen at a later look."""

    policy: str
    services: Mapping[str, str]
    """With the candidate that it is asked about, "" where it is about none."""
    world: World = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class TendStaging:
    """Begin to look after the stagings: these run, and no other of ours does; how they do is seen at a later look."""

    jobs: tuple[StagingJob, ...]
    asked_at: datetime


Effect = (
    SaveMemory
    | UploadPackage
    | PutServeConfig
    | ScaleDeployment
    | SetRoutes
    | PostQuestion
    | MeasureMetric
    | ConsultPolicy
    | TendStaging
)
