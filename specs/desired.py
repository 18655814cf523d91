"""What Git wants: the services of one commit, and what is wrong with its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from specs.amount import Amount
from specs.analysis import AnalysisSettings
from specs.compaction import CompactionSettings
from specs.gates import Gate
from specs.metric_readings import Metric
from specs.placement import Placement
from specs.routes import HeaderMatch, Sticky
from specs.windows import Window


@dataclass(frozen=True, kw_only=True, order=True)
class SpecError:
    """One problem of one spec file. Lines and columns count from 1."""

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        """Return the `file:line:column: message` form that editors and CI logs link."""
        return f"{self.path}:{self.line}:{self.column}: {self.message}"

    def is_about(self, path: str) -> bool:
        """Return whether it speaks of a file, or of a folder that this is below."""
        return path == self.path or path.startswith(f"{self.path}/")


class Unreadable(StrEnum):
    """What is there instead of a file."""

    LINK = "link"
    SUBMODULE = "submodule"
    SPECIAL = "special"


@dataclass(frozen=True, kw_only=True, order=True)
class Unread:
    """One place of a commit that cannot be looked into."""

    path: str
    kind: Unreadable
    is_spec: bool
    """Whether it is certainly meant as a spec; else it only counts where services were written before."""


@dataclass(frozen=True, kw_only=True)
class SourceRef:
    """Where in the repository a service is written."""

    path: str
    line: int


@dataclass(frozen=True, kw_only=True)
class SetWeight:
    """A step that gives the candidate `weight` percent (1-100) of the requests."""

    weight: int


@dataclass(frozen=True, kw_only=True)
class Pause:
    """A step that waits: `duration`, or until `promote` when None."""

    duration: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A step that waits for a verdict: at least `at_least`, and until enough requests were seen.

    `min_requests` replaces the analysis settings' own for this step.
    """

    at_least: timedelta
    min_requests: int | None = None


@dataclass(frozen=True, kw_only=True)
class SetHeaderRoute:
    """A step from which on requests with one of these headers go to the candidate, whatever its weight.

    A later step of the same `name` takes its place; without `matches` the route ends.
    """

    name: str
    matches: tuple[HeaderMatch, ...]


@dataclass(frozen=True, kw_only=True)
class Delegated:
    """The step of a rollout whose weights a policy of another package decides. It ends when that wants everything."""

    policy: str


Step = SetWeight | Pause | Analysis | SetHeaderRoute | Delegated


class OnInconclusive(StrEnum):
    """What an analysis step without enough requests does when its time is over."""

    HOLD = "hold"
    PROMOTE = "promote"


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """How a new revision of a service replaces the old one."""

    steps: tuple[Step, ...]
    max_surge: Amount
    max_unavailable: Amount
    min_ready: timedelta
    progress_deadline: timedelta
    scale_down_delay: timedelta
    auto_rollback: bool
    rollback_window: int = 3
    """Going back to one of so many good revisions before the stable one skips steps and analysis."""
    bake: timedelta = timedelta(0)
    """How long after 100% a regression still rolls back."""
    on_inconclusive: OnInconclusive = OnInconclusive.HOLD
    sticky: Sticky | None = None
    """By what a client is known that stays on its version during the steps."""
    gates: tuple[Gate, ...] = ()
    policy: str = "steps"
    """Who decides how far a candidate goes; with another one `steps` is that one's `Delegated`."""
    rollback_policy: str = "failures"
    """Who decides whether a candidate is taken back."""


@dataclass(frozen=True, kw_only=True)
class FixedScale:
    """A deployment with a set number of replicas."""

    replicas: int


@dataclass(frozen=True, kw_only=True)
class AutoScale:
    """A deployment that Serve scales between two bounds, both at least 1."""

    min_replicas: int
    max_replicas: int
    initial_replicas: int | None = None


Scale = FixedScale | AutoScale


@dataclass(frozen=True, kw_only=True)
class DesiredDeployment:
    """One deployment that the spec lists; `scale` is None when it runs at its code's count."""

    name: str
    scale: Scale | None = None


@dataclass(frozen=True, kw_only=True)
class PackageRef:
    """A folder of the commit that becomes a Serve package.

    `where` is its place in the template: `working_dir`, `py_modules.0`, or the same below
    `deployments.NAME.`; `tree` is the
    content hash of the folder as packaged (spec files and export-ignored files left out); `path` is relative
    to the repository's root ("" for the root itself).
    """

    where: str
    commit: str
    path: str
    tree: str
    keep_folder: bool = False

    @property
    def uri(self) -> str:
        """Return the package's content address in the cluster."""
        return f"gcs://_ray_pkg_{self.tree}.zip"


@dataclass(frozen=True, kw_only=True)
class Revision:
    """Everything that makes Serve rebuild or restart, rendered so that it can be created again.

    `template` is the canonical JSON of the Serve application without name, route prefix, counts and
    bounds; each packaged folder stands in it as `package://TREE`.
    """

    id: str
    template: str
    packages: tuple[PackageRef, ...]
    max_request_duration: timedelta
    deployments: tuple[DesiredDeployment, ...]
    stage: tuple[str, ...] = ()
    """URIs of weights that nodes should have when its replicas start."""

    def scale(self, deployment: str) -> Scale | None:
        """Return how a deployment is scaled, None when that is not written."""
        return next((listed.scale for listed in self.deployments if listed.name == deployment), None)


@dataclass(frozen=True, kw_only=True)
class DesiredService:
    """One service as a commit wants it."""

    name: str
    route: str
    suspend: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    revision: Revision
    rollout: RolloutSettings
    source: SourceRef
    analysis: AnalysisSettings | None = None
    metrics: tuple[Metric, ...] = ()
    """How its requests are judged at every step of a rollout; None: at analysis steps only, by the defaults."""
    group: str = ""
    """Services of one group that change in one commit are rolled back together; "" for none."""
    depends_on: tuple[str, ...] = ()
    """Services that must be healthy at their own wanted revision before a rollout of this one starts."""
    is_prunable: bool = True
    """False: it stays when it leaves the repository, whatever the ClusterPolicy says."""
    analysis_policy: str = "sequential"
    """Who judges a candidate's requests."""
    may_be_moved: bool = True
    """Whether compaction may empty nodes that its replicas are on."""
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, kw_only=True)
class PruneSettings:
    """Whether services that left the repository may be removed, and how many at once."""

    enabled: bool = False
    max_services: int = 1
    max_fraction: Amount = field(default_factory=lambda: Amount(value=20, is_percent=True))

    def within(self, limits: PruneSettings) -> PruneSettings:
        """Return what holds where the daemon's own settings allow `limits` at most."""
        return PruneSettings(
            enabled=self.enabled and limits.enabled,
            max_services=min(self.max_services, limits.max_services),
            max_fraction=min(self.max_fraction, limits.max_fraction, key=lambda amount: amount.value),
        )


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """The ClusterPolicy of a commit, or its defaults."""

    prune: PruneSettings = field(default_factory=PruneSettings)
    self_heal: bool = True
    max_services_moving: int = 5
    max_surge_replicas: int | None = None
    """Replicas above target over all services; None: as many as the services' own `maxSurge` allow."""
    windows: tuple[Window, ...] = ()
    """When rollouts may start and go on; always when empty."""
    compaction: CompactionSettings = field(default_factory=CompactionSettings)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit of the watched branch."""

    sha: str
    branch: str
    author: str
    subject: str
    committed_at: datetime

    def __str__(self) -> str:
        """Return the form shown in status, such as `main@sha1:4f2c...`."""
        return f"{self.branch}@sha1:{self.sha}"


@dataclass(frozen=True, kw_only=True)
class Desired:
    """The services of one commit. Services of files with errors are absent here and held, not deleted."""

    commit: Commit
    services: tuple[DesiredService, ...]
    errors: tuple[SpecError, ...]
    settings: ClusterSettings
    unread: tuple[Unread, ...] = ()
    """What cannot be looked into, and may hold specs; what certainly is one is among `errors` too."""
    is_policy_known: bool = True
    """False when some file is wrong and no valid ClusterPolicy was read: `settings` are then the defaults."""
    policy_path: str = ""
    """The file with the ClusterPolicy that `settings` are from, "" when there is none."""

    def service(self, name: str) -> DesiredService | None:
        """Return the service called `name`, or None."""
        return next((service for service in self.services if service.name == name), None)
