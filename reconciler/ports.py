"""The seams to the outside world, in our words. Each Protocol has a fake in tests and a real adapter.

Every method may raise `Retry` or `Stalled` (reconciler.errors) and nothing else that is expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from policies.compaction.problem import Answer, Problem
from specs.commit_notes import CommitNote
from specs.compaction import Holding
from specs.desired import Desired, PackageRef
from specs.effects import PostQuestion, PutServeConfig, SaveMemory
from specs.memory import Event, HistoryEntry, Memory
from specs.observed import CellSeen, Endpoint, GatewaySeen, Node
from specs.routes import RouteTable
from specs.world import World


class Clock(Protocol):
    """Time, as a port so that simulations own it."""

    def now(self) -> datetime:
        """Return the current time, timezone-aware UTC. It never jumps, so it may be off the wall clock for a while."""

    def wall(self) -> datetime:
        """Return what the machine's wall clock shows, UTC: for reading times of others, never for measuring any."""

    async def sleep(self, duration: timedelta) -> None:
        """Wait."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What of a reading is worth waking somebody for; as it is here, nobody has looked yet."""

    commit: str | None = None
    is_troubled: bool = False
    notes: tuple[CommitNote, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The newest commit that could be read. `desired` is None until the first one was."""

    desired: Desired | None
    read_at: datetime | None
    """When the branch was last known to be at this commit; its distance to now is Git's age."""
    problem: str = ""
    """Why newer commits cannot be seen, naming repository and age; "" when they can."""
    notes: tuple[CommitNote, ...] = ()
    """What is to be said of the branch's newest commit: that it is refused, or that it was rewritten."""

    @property
    def outlook(self) -> Outlook:
        """Return what it comes to for who waits for the next one."""
        commit = self.desired.commit.sha if self.desired else None
        return Outlook(commit=commit, is_troubled=bool(self.problem), notes=self.notes)


class Source(Protocol):
    """A Git repository of service specs."""

    async def read(self) -> Reading:
        """Return the newest commit's services; keeps and returns the last ones when Git fails."""

    async def changed(self, after: Outlook) -> Outlook:
        """Return the outlook as soon as it is another one than `after`.

        Who waits passes what the last wait returned, so that each change ends one wait, whoever read it meanwhile.
        """

    async def package(self, ref: PackageRef) -> bytes:
        """Return the deterministic zip of a folder at a commit. Raises Stalled when it is too large."""

    async def keep(self, commits: frozenset[str]) -> frozenset[str]:
        """Keep exactly these commits readable, even if the branch is rewritten; return those that are gone for good."""


@dataclass(frozen=True, kw_only=True)
class ServeSeen:
    """One read of Serve. `running` is False when Serve has never been started on the cluster.

    `cells` are all applications, ours or not. `proxies` are Serve's own HTTP proxies, the targets on
    clusters without direct ingress. `refused` are entries, by their text, that Serve refused each by itself: why.
    """

    running: bool
    cells: tuple[CellSeen, ...]
    proxies: tuple[Endpoint, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


class Serve(Protocol):
    """Ray Serve through its REST API."""

    async def read(self) -> ServeSeen:
        """Return all applications as Serve reports them now."""

    async def put(self, change: PutServeConfig) -> None:
        """Read, compose, validate, PUT, read back.

        An entry for which Serve refuses the whole document is left out of it, and is in the `refused` of later
        reads for a while. Raises Retry while a build would be cut and `may_cut_builds` is False, and when the
        read-back does not show the change; Stalled when the composed document is invalid or redacted, and when
        Serve takes nothing of it.
        """

    async def scale(self, application: str, deployment: str, target: int) -> None:
        """Set one deployment's target count through the external scaler."""


class Nodes(Protocol):
    """The cluster's nodes."""

    async def read(self) -> tuple[Node, ...]:
        """Return all nodes with labels, totals, and whether they are draining."""


class Packages(Protocol):
    """Content-addressed code packages in the cluster."""

    async def has(self, uri: str) -> bool:
        """Return whether the package is there now (Ray expires unused ones)."""

    async def upload(self, uri: str, content: bytes) -> None:
        """Upload a package; harmless when it is there already."""


class Gateway(Protocol):
    """The HTTP gateway that owns the public routes."""

    async def observe(self) -> GatewaySeen:
        """Return weights as routed, servers that pass checks, requests in flight, and counters."""

    async def route(self, table: RouteTable) -> None:
        """Make the table true: lanes are leased and released, each service's row changes atomically."""

    async def refresh(self, endpoints: Mapping[str, tuple[Endpoint, ...]], *, complete: bool) -> None:
        """Tell the endpoints per cell. Weights stay; with `complete=False` nothing is removed."""


class Store(Protocol):
    """Memory, events and history that survive a `kill -9`."""

    async def load(self) -> Memory:
        """Return what was saved last."""

    async def save(self, change: SaveMemory) -> int:
        """Save in one transaction, durable when it returns; return the id of its last event, 0 without one.

        Raises Stalled on a full or read-only disk.
        """

    async def events(self, *, service: str | None = None, since: int = 0, limit: int = 200) -> tuple[Event, ...]:
        """Return events with an id above `since`, oldest first; with `since=0` the newest `limit`."""

    async def history(self, service: str) -> tuple[HistoryEntry, ...]:
        """Return a service's ended rollouts, newest first."""


@dataclass(frozen=True, kw_only=True)
class GateAnswer:
    """What a gate said; `message` is for people, "" when it gave none."""

    is_yes: bool
    message: str = ""


class Gates(Protocol):
    """Services of others that are asked during a rollout."""

    async def ask(self, question: PostQuestion) -> GateAnswer:
        """Ask once and return the answer.

        Raises Retry when none came in time or none that can be read, Stalled when the gate may not be called.
        """


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One answer of a metrics server; without a value `message` says why there is none."""

    value: float | None
    message: str = ""


class MetricsServer(Protocol):
    """A server that answers queries with numbers."""

    async def query(self, query: str) -> Measured:
        """Return the one number that a query gives now.

        Raises Retry when the server cannot answer, Stalled when there is none or it refuses the query.
        """


class Advisers(Protocol):
    """Policies of other packages, each in a process of its own."""

    @property
    def enabled(self) -> frozenset[str]:
        """Return those that the settings enable, by kind and name, such as `rollout.ramp`."""

    async def consult(self, policy: str, subjects: Mapping[str, object], world: World) -> Mapping[str, object]:
        """Return what a policy answers for each subject: documents that may be anything, `{"problem": TEXT}` for none.

        It is called with the World and, one after the other, the subjects' values: a service's name, or what
        compaction sees. Raises Retry when it answered too late or ended; there is no answer at all then.
        """


class Drains(Protocol):
    """What it takes to empty nodes."""

    async def holdings(self) -> tuple[Holding, ...]:
        """Return what is on nodes beside what Serve reports. Raises Retry when that is not all of it."""

    async def drain(self, node: str, expected: Mapping[str, float] | None, why: str) -> None:
        """Let nothing new onto a node, so that Serve replaces what is on it; harmless when it drains already.

        Raises Stalled when more than `expected` of it is in use (None: whatever is), and when Ray refuses.
        """

    async def end(self, node: str) -> None:
        """Have Ray end on a node that drains and is empty. Raises Stalled when something of it is in use."""


class NodeProvider(Protocol):
    """Whoever lends the nodes."""

    async def refusal(self, node: Node) -> str:
        """Return why a node could not be given back; "" when it could."""

    async def release(self, ip: str) -> None:
        """Give back the node with this address; harmless when it is gone already."""


class Planner(Protocol):
    """Works out plans, away from the loop."""

    async def plan(self, problem: Problem) -> Answer:
        """Return the cheapest answer found in a second or two."""


@dataclass(frozen=True, kw_only=True)
class CompactionPorts:
    """The seams of compaction."""

    clock: Clock
    store: Store
    drains: Drains
    provider: NodeProvider
    planner: Planner
    advisers: Advisers


@dataclass(frozen=True, kw_only=True)
class JobOrder:
    """A program to run on the cluster: a shell command in a runtime environment, which may hold secrets."""

    id: str
    command: str
    runtime_env: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program on the cluster as it was last seen; `message` is Ray's."""

    id: str
    ended: bool
    succeeded: bool = False
    message: str = ""


class Jobs(Protocol):
    """Programs of one owner on the cluster."""

    async def start(self, order: JobOrder) -> None:
        """Start a program; harmless when there is one of that id, whether it still runs or not."""

    async def look(self, job: str) -> Job | None:
        """Return how a program is getting on, None when the cluster knows of none with that id."""

    async def output(self, job: str) -> str:
        """Return what a program has printed so far, "" when there is none."""

    async def stop(self, job: str) -> None:
        """End a program; harmless when it has ended or was never there."""

    async def own(self) -> tuple[Job, ...]:
        """Return all programs that this owner started, running or not: whose else they are, is not told."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Every seam of the daemon."""

    clock: Clock
    source: Source
    serve: Serve
    nodes: Nodes
    packages: Packages
    gateway: Gateway
    store: Store
    gates: Gates
    metrics: MetricsServer
    advisers: Advisers
    jobs: Jobs
