"""A Backend in memory, and statuses rich enough to show everything that the page can show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from reconciler.api.backend import Refused, UnknownServiceError
from reconciler.planner import Proposal
from specs import analysis
from specs.commands import Command, Verb
from specs.memory import Event, HistoryEntry, Outcome
from specs.observed import Node, ReplicaState
from specs.planned import PlannedChange
from specs.reasons import Reason
from specs.routes import CellWeight, RouteTable, ServiceRoute
from specs.seats import Seat
from specs.status import (
    AnalysisStatus,
    CellState,
    ClusterStatus,
    Condition,
    DeploymentStatus,
    Health,
    Phase,
    ReplicaStatus,
    ServiceStatus,
    StepStatus,
    Sync,
    TrafficStatus,
)

NOW = datetime(2026, 11, 23, 9, 59, 19, tzinfo=UTC)
COMMIT = "main@sha1:4f2c9d1e0b7a6c5d4e3f2a1b0c9d8e7f6a5b4c3d"
TRACEBACK = """Deploying app 'search.91aa0c3d55fe.-.-.1' failed with exception:
Traceback (most recent call last):
  File "/home/ray/anaconda3/lib/python3.11/site-packages/ray/serve/_private/application_state.py", line 1402, in build
    app = call_user_app_builder_with_args_if_necessary(import_attr(import_path), args)
  File "search/app.py", line 7, in <module>
    from search.index import Index<script>alert(1)</script>
ModuleNotFoundError: No module named 'search.index' & <b>friends</b>"""


class MemoryBackend:
    """Everything is a field; `command` accepts what `refusals` does not name."""

    def __init__(self, status: ClusterStatus | None = None) -> None:
        self.cluster = status or cluster(chat())
        self.pinned: tuple[str, str] | None = None
        self.proposals: list[Proposal | None] = []
        self.planned: PlannedChange | Refused = Refused("nothing was seen yet")
        self.commands: list[Command] = []
        self.refusals: dict[Verb, str] = {}
        self.ready = True
        self.logged: list[Event] = []
        self.entries: tuple[HistoryEntry, ...] = ()
        self.seen_nodes: tuple[Node, ...] = ()
        self.seen_seats: tuple[Seat, ...] = ()
        self.table = RouteTable()
        self.tag = "t1"
        self.waiting = 0
        """How many wait for news right now."""

    def status(self) -> ClusterStatus:
        return self.cluster

    def status_in_full(self, service: str | None = None) -> ClusterStatus:
        services = tuple(_bounded(one) if service in (None, one.name) else one for one in self.cluster.services)
        return replace(self.cluster, services=services)

    def nodes(self) -> tuple[Node, ...]:
        return self.seen_nodes

    def seats(self) -> tuple[Seat, ...]:
        return self.seen_seats

    def routes(self) -> tuple[str, RouteTable]:
        return self.tag, self.table

    async def set_routes(self, tag: str, table: RouteTable) -> None:
        self.tag, self.table = tag, table

    async def wait_routes(self, etag: str, timeout: timedelta) -> None:
        await self._wait(lambda: self.tag != etag, timeout)

    async def events(self, *, service: str | None = None, since: int = 0, limit: int = 200) -> tuple[Event, ...]:
        fitting = [event for event in self.logged if event.id > since and service in (None, event.service)]
        return tuple(fitting[:limit] if since else fitting[-limit:])

    async def wait_events(self, since: int, timeout: timedelta) -> None:
        await self._wait(lambda: bool(self.logged) and self.logged[-1].id > since, timeout)

    async def log(self, kind: str, message: str, service: str = "chat", **fields: object) -> int:
        event = Event(id=len(self.logged) + 1, at=NOW, service=service, kind=kind, message=message)
        self.logged.append(replace(event, **fields))  # type: ignore[arg-type]
        return len(self.logged)

    async def history(self, service: str) -> tuple[HistoryEntry, ...]:
        return tuple(entry for entry in self.entries if entry.service == service)

    async def command(self, command: Command) -> int:
        if command.service not in {service.name for service in self.cluster.services}:
            raise UnknownServiceError(command.service)
        if command.verb in self.refusals:
            raise Refused(self.refusals[command.verb])
        self.commands.append(command)
        return await self.log("Commanded", command.verb.value, service=command.service, by=command.by)

    async def plan(self, proposal: Proposal | None) -> PlannedChange:
        self.proposals.append(proposal)
        if isinstance(self.planned, Refused):
            raise self.planned
        return self.planned

    async def apply(self, base: str, commit: str, live: str) -> None:
        if live != "0123456789abcdef":
            raise Refused("the plan is stale")
        self.pinned = (base, commit)

    async def release(self) -> str:
        if self.pinned is None:
            raise Refused("no plan was applied")
        pinned, self.pinned = self.pinned, None
        return pinned[1]

    def is_ready(self) -> bool:
        return self.ready

    def metrics(self) -> bytes:
        return b"# HELP heliostat_leader 1\nheliostat_leader 1.0\n"

    async def _wait(self, is_over: Callable[[], bool], timeout: timedelta) -> None:
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                # Looked at again and again, so that a backend can outlive the loop of one server.
                while not is_over():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            return
        finally:
            self.waiting -= 1


def cluster(*services: ServiceStatus) -> ClusterStatus:
    return ClusterStatus(
        cluster="prod-us",
        commit=COMMIT,
        observed_at=NOW - timedelta(seconds=1),
        complete=True,
        leader=True,
        problem="",
        services=services,
        git_age_seconds=0.4,
    )


def chat() -> ServiceStatus:
    """A service in the middle of a rollout, paused at 10%: the example of the HTTP API's contract."""
    return ServiceStatus(
        name="chat",
        route="/chat",
        sync=Sync.OUT_OF_SYNC,
        health=Health.PAUSED,
        phase=Phase.PAUSED,
        commit=COMMIT,
        stable="3f9a1c2eb771",
        candidate="b7710de40a12",
        quarantined=(),
        step=StepStatus(index=1, count=5, text="pause 60s", until=datetime(2026, 11, 23, 10, tzinfo=UTC)),
        weights={"3f9a1c2eb771": 90.0, "b7710de40a12": 10.0},
        replicas=ReplicaStatus(target=4, live=5, ready=5, peak=5),
        cells=(
            _cell("chat.3f9a1c2eb771.us-east-1a.-.1", 45.0, ("Chat", 2, 2), ("Embed", 1, 1)),
            _cell("chat.3f9a1c2eb771.us-east-1b.-.1", 45.0, ("Chat", 2, 2), ("Embed", 1, 1)),
            _cell("chat.b7710de40a12.us-east-1a.-.1", 10.0, ("Chat", 1, 1), ("Embed", 1, 0), status="DEPLOYING"),
        ),
        traffic={
            "3f9a1c2eb771": TrafficStatus(requests=1_204_332, errors=0, aborted=3, p50=0.011, p99=0.064),
            "b7710de40a12": TrafficStatus(requests=1200, errors=2, p50=0.0123, p99=1.21),
        },
        reason=Reason.PAUSING,
        message="pausing at 10% until 10:00:00 (41 s left)",
        conditions=(
            _condition("Ready", "True", Reason.PAUSING, "pausing at 10% until 10:00:00 (41 s left)"),
            _condition("Synced", "False", Reason.PAUSING, "pausing at 10% until 10:00:00 (41 s left)"),
            _condition("Paused", "True", Reason.PAUSING, "pausing at 10% until 10:00:00 (41 s left)"),
        ),
        labels={"team": "search"},
        target="b7710de40a12",
        analysis=AnalysisStatus(
            outcome=analysis.Outcome.INCONCLUSIVE,
            message="the candidate needs 200 to be judged",
            since=NOW - timedelta(seconds=19),
            needed=1500,
            verdicts=(
                analysis.Verdict(
                    measure=analysis.Measure.SUCCESS_RATE,
                    outcome=analysis.Outcome.PASSING,
                    message="0.2% of 1,200 requests failed",
                ),
                analysis.Verdict(
                    measure=analysis.Measure.LATENCY,
                    outcome=analysis.Outcome.INCONCLUSIVE,
                    message="p99 is 1.2 s",
                    needed=1500,
                ),
            ),
        ),
    )


def search() -> ServiceStatus:
    """A service whose newest revision was rolled back, with Ray's own long and hostile message."""
    return replace(
        steady("search", revisions=("77c01d9e2f10",)),
        quarantined=("91aa0c3d55fe",),
        sync=Sync.OUT_OF_SYNC,
        phase=Phase.BLOCKED,
        reason=Reason.QUARANTINED,
        message="91aa0c3d55fe is quarantined; 77c01d9e2f10 keeps all requests",
        conditions=(_condition("Quarantined", "True", Reason.BUILD_FAILED, TRACEBACK),),
    )


def steady(name: str, revisions: tuple[str, ...] = ("c0ffee123456",), zone: str = "us-east-1a") -> ServiceStatus:
    stable = revisions[0]
    return ServiceStatus(
        name=name,
        route=f"/{name}",
        sync=Sync.SYNCED,
        health=Health.HEALTHY,
        phase=Phase.STEADY,
        commit=COMMIT,
        stable=stable,
        candidate=None,
        quarantined=(),
        step=None,
        weights={stable: 100.0},
        replicas=ReplicaStatus(target=3, live=3, ready=3, peak=4),
        cells=(_cell(f"{name}.{stable}.{zone}.-.0", 100.0, ("Model", 3, 3)),),
        traffic={stable: TrafficStatus(requests=48_211, errors=0, p50=0.0042, p99=0.0191)},
        reason=Reason.STEADY,
        message="all requests go to c0ffee123456",
        target=stable,
    )


def troubled() -> ClusterStatus:
    """Everything at once: a rollout, a quarantine, a degraded service, a blind daemon, broken files."""
    degraded = replace(
        steady("embeddings", ("ab12cd34ef56",)),
        health=Health.DEGRADED,
        reason=Reason.OVERCOMMITTED,
        message="1 of 3 replicas is ready and takes all requests",
        replicas=ReplicaStatus(target=3, live=4, ready=1, peak=4, serve_surplus=1),
        cells=(_cell("embeddings.ab12cd34ef56.-.-.3", 100.0, ("Embeddings", 3, 1), status="UNHEALTHY"),),
        traffic={"ab12cd34ef56": TrafficStatus(requests=9_120, errors=212, unrouted=14, p50=0.2, p99=4.12)},
    )
    suspended = replace(steady("translate"), health=Health.SUSPENDED, phase=Phase.SUSPENDED, reason=Reason.SUSPENDED)
    first = replace(
        steady("ocr"),
        health=Health.MISSING,
        sync=Sync.OUT_OF_SYNC,
        phase=Phase.DEPLOYING,
        stable=None,
        candidate="0123456789ab",
        weights={},
        traffic={},
        replicas=ReplicaStatus(target=2, live=2),
        cells=(replace(_cell("ocr.0123456789ab.-.-.0", 0.0, status="DEPLOYING"), deployments=()),),
        reason=Reason.BUILDING,
        message="Serve builds 0123456789ab (12 s so far, deadline in 9m48s)",
    )
    return replace(
        cluster(chat(), steady("rerank"), search(), degraded, suspended, first),
        observed_at=NOW - timedelta(seconds=74),
        complete=False,
        problem="Ray at http://127.0.0.1:8265 is unreachable since 74 s (connection refused)",
        errors=(
            "services/rerank.yaml:14:7: spec.rollout.maxSurge: write a count or a percentage such as 25%, not 'lots'",
            "services/ocr/service.yaml:3:1: unknown field <img src=x onerror=alert(1)>",
        ),
        git_age_seconds=252.0,
    )


def sample_events() -> tuple[Event, ...]:
    told = [
        ("chat", "RolloutStarted", "b7710de40a12 starts: 5 steps", "b7710de40a12", "heliostat", False),
        ("chat", "WeightChanged", "10% to b7710de40a12", "b7710de40a12", "heliostat", False),
        ("search", "RolledBack", TRACEBACK, "91aa0c3d55fe", "heliostat", True),
        ("chat", "Paused", "looking at the latency first", "", "ann@example.com", False),
        (
            "",
            "RayUnreachable",
            "Ray at http://127.0.0.1:8265 is unreachable (connection refused)",
            "",
            "heliostat",
            True,
        ),
    ]
    return tuple(
        Event(
            id=place + 1,
            at=NOW - timedelta(seconds=(len(told) - place) * 97),
            service=service,
            kind=kind,
            message=message,
            revision=revision,
            by=by,
            is_warning=is_warning,
        )
        for place, (service, kind, message, revision, by, is_warning) in enumerate(told)
    )


def sample_history() -> tuple[HistoryEntry, ...]:
    return (
        HistoryEntry(
            at=NOW - timedelta(hours=1),
            service="search",
            revision="91aa0c3d55fe",
            commit=COMMIT,
            outcome=Outcome.ROLLED_BACK,
            message=TRACEBACK,
            started_at=NOW - timedelta(hours=1, minutes=2),
            peak=4,
        ),
        HistoryEntry(
            at=NOW - timedelta(days=2),
            service="search",
            revision="77c01d9e2f10",
            commit=COMMIT,
            outcome=Outcome.PROMOTED,
            started_at=NOW - timedelta(days=2, minutes=4),
            peak=5,
        ),
    )


def sample_nodes() -> tuple[Node, ...]:
    labels = {"ray.io/availability-zone": "us-east-1a", "ray.io/market-type": "spot"}
    head = Node(id="f" * 56, ip="10.0.0.10", is_alive=True, is_head=True, is_draining=False, resources={"CPU": 0.0})
    worker = replace(
        head, id="a" * 56, ip="10.0.0.11", is_head=False, labels=labels, resources={"CPU": 8.0, "GPU": 1.0}
    )
    return head, worker, replace(worker, id="b" * 56, ip="10.0.0.12", is_draining=True)


def sample_seats() -> tuple[Seat, ...]:
    """One replica of each kind: serving, the candidate's, starting without a node, moving away, somebody else's."""
    stable = Seat(
        replica="r1",
        node="a" * 56,
        application="chat.3f9a1c2eb771.-.-.0",
        deployment="Chat",
        service="chat",
        revision="3f9a1c2eb771",
        state=ReplicaState.RUNNING,
    )
    new = {"application": "chat.b7710de40a12.-.-.0", "revision": "b7710de40a12"}
    return (
        stable,
        replace(stable, replica="r2"),
        replace(stable, replica="r3", node="b" * 56, is_migrating=True),
        replace(stable, replica="r4", node="b" * 56, **new),
        replace(stable, replica="r5", node="", state=ReplicaState.STARTING, **new),
        replace(stable, replica="r6", application="<b>theirs</b>", service="", revision=""),
    )


def sample_routes() -> RouteTable:
    cells = (
        CellWeight(cell="chat.3f9a1c2eb771.-.-.0", weight=9000),
        CellWeight(cell="chat.b7710de40a12.-.-.0", weight=1000),
    )
    return RouteTable(services=(ServiceRoute(service="chat", route="/chat", cells=cells),))


def _bounded(status: ServiceStatus) -> ServiceStatus:
    if status.analysis is None:
        return status
    verdicts = tuple(replace(verdict, low=0.5) for verdict in status.analysis.verdicts)
    return replace(status, analysis=replace(status.analysis, verdicts=verdicts))


def _cell(name: str, weight: float, *deployments: tuple[str, int, int], status: str = "RUNNING") -> CellState:
    _, revision, zone, _, _ = name.split(".")
    return CellState(
        name=name,
        revision=revision,
        zone=None if zone == "-" else zone,
        market=None,
        weight=weight,
        status=status,
        deployments=tuple(
            DeploymentStatus(name=title, target=target, ready=ready) for title, target, ready in deployments
        ),
    )


def _condition(kind: str, status: str, reason: Reason, message: str) -> Condition:
    return Condition(type=kind, status=status, reason=reason.value, message=message, last_transition_time=NOW)
