"""What cannot be seen again, and must therefore be saved before the effect that it guards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from specs.cells import CellKey
from specs.compaction import CompactionMemory
from specs.desired import DesiredService, Revision
from specs.evidence import Evidence, Window
from specs.gates import GateCall
from specs.metric_readings import MetricTally
from specs.placement import Placing, SiteMemory
from specs.preemption import PreemptionMemory
from specs.reasons import Reason
from specs.snapshot import Snapshot
from specs.staging import Staged

BASELINE = "+"
"""Stands between a revision and the generation in the name of a baseline's line."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a cell failed. Latched: Serve forgets it at the next change of a count."""

    reason: Reason
    message: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Autoscaling bounds as last commanded."""

    min_replicas: int
    max_replicas: int


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What somebody else changed in Serve, last found at `at`, and how often in a row (`count`).

    `field` is Serve's own word for it, such as `num_replicas` or `runtime_env`; `deployment` is "" for the
    application's own fields. `found` and `wanted` are told for counts only: other values may be secrets.
    """

    field: str
    deployment: str = ""
    found: str = ""
    wanted: str = ""
    count: int = 1
    first_at: datetime
    at: datetime

    @property
    def where(self) -> tuple[str, str]:
        """Return what tells this drift from others of the cell."""
        return self.field, self.deployment


@dataclass(frozen=True, kw_only=True)
class CellMemory(Snapshot):
    """One Serve application of ours, from the intent to create it until it is seen gone.

    `config` is the canonical JSON of the composed application without counts and bounds, exactly as it
    is PUT each time: composing it anew (with another gateway address, say) would restart a live cell.
    `counts` and `bounds` are the last commanded ones per deployment. `seen` maps each replica that was
    ever seen to its node, `targets` are Serve's counts at the last look, and `shrunk` adds up how far those
    fell: together they tell a crash loop from a slow start or a shrink. `code` are the counts that
    deployments had at first sight which the spec does not list. `building_since` starts anew when a PUT of
    ours cut the build.
    """

    key: CellKey
    config: str
    counts: Mapping[str, int] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    created_at: datetime
    building_since: datetime
    was_ready: bool = False
    seen: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)
    code: Mapping[str, int] = field(default_factory=dict)
    shrunk: int = 0
    failure: Failure | None = None
    drain_since: datetime | None = None
    """When its weight became 0 for good; it retires when nothing is in flight, or maxRequestDuration later."""
    is_retired: bool = False
    """The intent to take it out of Serve's document is saved."""
    is_urgent: bool = False
    """Its removal may cut builds in progress: a rollback needs its room."""
    was_seen: bool = False
    """Serve has shown it: when it is missing now, somebody took it away."""
    restores: int = 0
    """How often it was put back lately. Another writer is answered more and more slowly, not in a race."""
    restored_at: datetime | None = None
    written: str = ""
    """Digest of its entry in Serve's document at the last look: when it differs and we wrote nothing, others did."""
    drifts: tuple[Drift, ...] = ()
    """What others changed lately, field by field."""
    is_baseline: bool = False
    """It runs the stable revision beside a candidate of the same age, for the candidate to be compared with."""
    joins: int | None = None
    """The generation of its baseline's first cell, where it came later to another place. None: it is the first."""

    @property
    def line(self) -> str:
        """Return what it takes requests together with: its revision, or its baseline."""
        first = self.key.generation if self.joins is None else self.joins
        return f"{self.key.revision}{BASELINE}{first}" if self.is_baseline else self.key.revision

    @property
    def is_externally_scaled(self) -> bool:
        """Return whether Serve's scale call works: it excludes autoscaling in the same application."""
        return not self.bounds


class OutgoingCause(StrEnum):
    """Why a revision is on its way out."""

    REPLACED = "replaced"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A revision that is giving its traffic back, or kept warm until `scaleDownDelay` is over."""

    revision: str
    since: datetime
    cause: OutgoingCause


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A revision that is not tried again until the wanted revision changes or an operator says `retry`."""

    revision: str
    reason: Reason
    message: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Where the candidate stands. `step` indexes the spec's steps; equal to their number means 100%.

    `reached_at` is when the current step's goal was reached (a pause counts from there); None before.
    `progress` is a mark that changes whenever anything moved forward, `progress_at` when it last did.
    """

    started_at: datetime
    step: int = 0
    reached_at: datetime | None = None
    progress: str = ""
    progress_at: datetime
    is_untimed: bool = False
    """No progress is nobody's fault now (a pause, blindness, full nodes): `progressDeadline` begins when that ends."""
    tallies: tuple[MetricTally, ...] = ()
    """What the measurements of the service's metrics came to since the candidate has had requests."""
    is_fast: bool = False
    """A revision that was good before and is still live goes straight to 100%."""
    yields_to: str = ""
    """The service that it gives way to: both wait for the same room on nodes, and only one may hold a part of it."""
    is_parked: bool = False
    """It stands still and does not count as moving; to go on it needs a place among those that move."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the candidate of a rollout is judged on beside the stable revision.

    `past` are the windows that have ended, each of one time at one set of weights. The present one began at
    `since` with these `weights` (basis points per cell) and with the counters of `start`, per cell; it has none
    while one of the two revisions gets no requests. What was seen in it is what the counters show above them.
    """

    candidate: str
    stable: str
    since: datetime
    weights: Mapping[str, int]
    start: Mapping[str, Evidence]
    past: tuple[Window, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OperatorPause:
    """A pause asked for by a person, until `resume`."""

    by: str
    why: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A way back (an operator's, or after 100%): `revision` is wanted instead of `against`.

    Until Git wants something else than `against`.
    """

    revision: str
    against: str


@dataclass(frozen=True, kw_only=True)
class Baking:
    """The watch window after 100%: `revision` took over, `back_to` is kept warm to fall back on.

    `before` is what the latter answered while both were compared, `start` the counters of the former's cells when it
    had all requests: what came since then is held against that.
    """

    revision: str
    back_to: str
    since: datetime
    before: Evidence = field(default_factory=Evidence)
    start: Mapping[str, Evidence] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Act:
    """What a person did: a command that was carried out, in one line."""

    at: datetime
    text: str


@dataclass(frozen=True, kw_only=True)
class ServiceMemory(Snapshot):
    """Everything remembered of one service."""

    name: str
    wanted: DesiredService
    """The last good spec: what to hold to when its file breaks or Git is unreachable."""
    commit: str = ""
    """The id of the commit that brought the wanted revision."""
    stable: str | None = None
    candidate: str | None = None
    rollout: Rollout | None = None
    comparison: Comparison | None = None
    pause: OperatorPause | None = None
    pin: Pin | None = None
    baking: Baking | None = None
    acts: tuple[Act, ...] = ()
    """What people did since the last line of history; that of the next one tells of it."""
    outgoing: tuple[Outgoing, ...] = ()
    quarantine: tuple[Quarantined, ...] = ()
    revisions: tuple[Revision, ...] = ()
    """Revisions that are live, warm or good before: enough to create each again without Git."""
    good: tuple[str, ...] = ()
    """Revisions that once took all requests and were not taken back since, the latest last: where a way back leads."""
    cells: tuple[CellMemory, ...] = ()
    generations: Mapping[str, int] = field(default_factory=dict)
    """The next generation per revision: a cell's name is never used for two different things."""
    learned: Mapping[str, int] = field(default_factory=dict)
    """Counts of deployments that the spec does not list, from the first healthy cell."""
    base: Mapping[str, int] = field(default_factory=dict)
    """Target per autoscaled deployment that the running rollout holds capacity for."""
    queued_at: datetime | None = None
    """Since when another revision is wanted and its rollout has not started: the order among those who wait."""
    surge: Mapping[str, int] = field(default_factory=dict)
    """The surge per deployment that the running rollout may use, where that is less than its spec allows."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Basis points per cell as last commanded."""
    ready_since: Mapping[str, datetime] = field(default_factory=dict)
    """When each replica was first seen ready, for `minReady`."""
    peak: int = 0
    gates: tuple[GateCall, ...] = ()
    """Questions of the running rollout to its gates, and notices that are not delivered yet."""
    sites: tuple[SiteMemory, ...] = ()
    """What is believed of the places where its cells may be."""
    placing: Placing | None = None
    """The wish of another package's placement policy that is gone by."""
    staged: Staged | None = None
    """How the last staging of weights ended; of an earlier rollout than the running one, perhaps."""
    is_removed: bool = False
    """It left the repository and the prune guard let it go."""
    troubles: Mapping[str, datetime] = field(default_factory=dict)
    """When the failing of a policy of another package was last told, by policy."""

    def revision(self, revision_id: str) -> Revision | None:
        """Return the record of a revision, or None."""
        return next((record for record in self.revisions if record.id == revision_id), None)

    def cells_of(self, revision_id: str | None) -> tuple[CellMemory, ...]:
        """Return the cells of a revision that are not retired."""
        return tuple(cell for cell in self.cells if cell.key.revision == revision_id and not cell.is_retired)

    @property
    def is_moving(self) -> bool:
        """Return whether there is more than the stable revision: a candidate, what leaves, or a baseline."""
        return self.candidate is not None or bool(self.outgoing) or any(cell.is_baseline for cell in self.cells)

    @property
    def is_at_rest(self) -> bool:
        """Return whether all of its cells serve and stay, and nothing is watched or argued about."""
        stays = (cell.was_ready and cell.drain_since is None and not cell.is_retired for cell in self.cells)
        is_argued = any(cell.drifts or cell.restores for cell in self.cells)
        return not (self.is_moving or self.is_removed or self.baking is not None or is_argued) and all(stays)

    def quarantined(self, revision_id: str) -> Quarantined | None:
        """Return the quarantine of a revision, or None."""
        return next((entry for entry in self.quarantine if entry.revision == revision_id), None)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Everything remembered, by service name, and what compaction has begun."""

    services: Mapping[str, ServiceMemory] = field(default_factory=dict)
    compaction: CompactionMemory = field(default_factory=CompactionMemory)
    """As loaded at the start; compaction itself keeps it up to date."""
    preemption: PreemptionMemory = field(default_factory=PreemptionMemory)
    """As loaded at the start, too."""

    @property
    def is_at_rest(self) -> bool:
        """Return whether nothing is on its way of which some deadline tells when it is over."""
        is_told = self.preemption.notices or self.compaction.drains or self.compaction.given_up
        return not is_told and all(service.is_at_rest for service in self.services.values())


class Outcome(StrEnum):
    """How a rollout ended."""

    DEPLOYED = "deployed"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    SUPERSEDED = "superseded"
    REMOVED = "removed"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the log that people read. `id` is given by the store, ascending; 0 before."""

    id: int = 0
    at: datetime
    service: str
    kind: str
    """CamelCase, such as `RolloutStarted`, `WeightChanged`, `RolledBack`."""
    message: str
    revision: str = ""
    by: str = "heliostat"
    is_warning: bool = False


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One ended rollout of a service."""

    at: datetime
    service: str
    revision: str
    commit: str
    outcome: Outcome
    message: str = ""
    started_at: datetime | None = None
    peak: int = 0
    acts: tuple[Act, ...] = ()
    """What people did meanwhile, the oldest first."""
