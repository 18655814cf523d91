"""Memory with every field of the vocabulary in use, for what saves and loads it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from specs.amount import Amount
from specs.analysis import AnalysisSettings, Latency, SuccessRate
from specs.cells import CellKey
from specs.desired import (
    Analysis,
    AutoScale,
    DesiredDeployment,
    DesiredService,
    FixedScale,
    OnInconclusive,
    PackageRef,
    Pause,
    Revision,
    RolloutSettings,
    SetHeaderRoute,
    SetWeight,
    SourceRef,
)
from specs.evidence import Evidence, LatencyCounts, Window
from specs.gates import Gate, GateAt, GateCall, GateKind, GateState
from specs.memory import (
    Act,
    Baking,
    Bounds,
    CellMemory,
    Comparison,
    Drift,
    Event,
    Failure,
    HistoryEntry,
    OperatorPause,
    Outcome,
    Outgoing,
    OutgoingCause,
    Pin,
    Quarantined,
    Rollout,
    ServiceMemory,
)
from specs.metric_readings import Metric, MetricTally
from specs.placement import Placing, Site, SiteMemory, SiteState
from specs.reasons import Reason
from specs.routes import HeaderMatch, Sticky, StickyKind
from specs.staging import Progress, Staged, StagingState

AT = datetime(2026, 11, 23, 10, 0, 0, 123456, tzinfo=UTC)


TALLY = MetricTally(
    metric="errors",
    asked_at=AT,
    passed=7,
    failed=1,
    inconclusive=2,
    errors=3,
    errors_in_a_row=1,
    value=0.04,
    worst=0.5,
    message="the query gives no series",
)


def revision(revision_id: str = "b7710de40a12") -> Revision:
    return Revision(
        id=revision_id,
        template='{"import_path":"chat.app:build","ünï":"☀"}',
        packages=(PackageRef(where="working_dir", commit="4f2c", path="", tree="ab" * 20, keep_folder=True),),
        max_request_duration=timedelta(minutes=10),
        deployments=(
            DesiredDeployment(name="Chat", scale=FixedScale(replicas=4)),
            DesiredDeployment(name="Embed", scale=AutoScale(min_replicas=1, max_replicas=8, initial_replicas=2)),
            DesiredDeployment(name="Rank", scale=AutoScale(min_replicas=2, max_replicas=2)),
            DesiredDeployment(name="Unlisted"),
        ),
    )


def wanted(name: str = "chat") -> DesiredService:
    return DesiredService(
        name=name,
        route=f"/{name}",
        suspend=False,
        labels={"team": "search"},
        revision=revision(),
        rollout=RolloutSettings(
            steps=(
                SetHeaderRoute(name="testers", matches=(HeaderMatch(name="x-canary", value="yes", is_prefix=True),)),
                SetWeight(weight=10),
                Pause(duration=timedelta(seconds=60)),
                Analysis(at_least=timedelta(seconds=60), min_requests=500),
                SetHeaderRoute(name="testers", matches=()),
                SetWeight(weight=50),
                Analysis(at_least=timedelta(minutes=5)),
                Pause(),
            ),
            max_surge=Amount(value=25, is_percent=True),
            max_unavailable=Amount(value=0),
            min_ready=timedelta(seconds=10),
            progress_deadline=timedelta(minutes=10),
            scale_down_delay=timedelta(milliseconds=1500),
            auto_rollback=True,
            rollback_window=5,
            bake=timedelta(minutes=5),
            on_inconclusive=OnInconclusive.PROMOTE,
            sticky=Sticky(kind=StickyKind.COOKIE, name="chat-rev"),
            gates=(
                Gate(
                    name="calendar",
                    at=GateAt.BEFORE_STEP,
                    kind=GateKind.CONFIRM,
                    url="https://hooks.example/rollouts",
                    timeout=timedelta(seconds=10),
                    retries=3,
                    interval=timedelta(minutes=1),
                ),
            ),
        ),
        analysis=AnalysisSettings(
            success_rate=SuccessRate(minimum=0.99), latency=Latency(quantile=0.95, max_increase=0.5), min_requests=300
        ),
        metrics=(
            Metric(
                name="errors",
                query="sum(errors)",
                min=0.0,
                max=0.05,
                interval=timedelta(seconds=30),
                failure_limit=1,
                consecutive_error_limit=4,
            ),
        ),
        source=SourceRef(path="services/chat.yaml", line=3),
        group="search",
        depends_on=("embeddings",),
    )


def evidence(requests: int) -> Evidence:
    latency = LatencyCounts(buckets=((120, requests - 1), (204, 1)))
    own = Evidence(requests=requests, errors=2, aborted=1, unrouted=3, latency=latency)
    return replace(own, clients=(own, Evidence()))


def rich_service(name: str = "chat") -> ServiceMemory:
    """A service in the middle of everything."""
    cell = CellMemory(
        key=CellKey(service=name, revision="b7710de40a12", zone="us-east-1a", market="spot", generation=2),
        config='{"name":"x"}',
        counts={"Chat": 3},
        bounds={"Embed": Bounds(min_replicas=1, max_replicas=4)},
        created_at=AT,
        building_since=AT + timedelta(seconds=1),
        was_ready=True,
        seen={"r3": "node-b", "r1": "node-a"},
        targets={"Chat": 3},
        code={"Unlisted": 2},
        shrunk=1,
        is_urgent=True,
        was_seen=True,
        restores=2,
        restored_at=AT,
        written="0123456789abcdef",
        drifts=(Drift(field="num_replicas", deployment="Chat", found="2", wanted="3", count=2, first_at=AT, at=AT),),
        failure=Failure(reason=Reason.BUILD_FAILED, message="Traceback\n  line 'x'", at=AT),
        drain_since=AT,
        is_retired=True,
        is_baseline=True,
        joins=1,
    )
    return ServiceMemory(
        name=name,
        wanted=wanted(name),
        commit="4f2c",
        stable="3f9a1c2eb771",
        candidate="b7710de40a12",
        rollout=Rollout(
            started_at=AT,
            step=1,
            yields_to="echo",
            reached_at=AT,
            progress="p",
            progress_at=AT,
            tallies=(TALLY,),
            is_fast=True,
            is_parked=True,
            is_untimed=True,
        ),
        comparison=Comparison(
            candidate="b7710de40a12",
            stable="3f9a1c2eb771",
            since=AT,
            weights={"z.cell": 9000, "a.cell": 1000},
            start={"z.cell": evidence(900), "a.cell": evidence(100)},
            past=(Window(candidate=evidence(10), stable=evidence(90)),),
        ),
        pause=OperatorPause(by="ann", why="lunch", at=AT),
        baking=Baking(revision="3f9a1c2eb771", back_to="000000000000", since=AT),
        placing=Placing(
            policy="thrifty",
            since=AT,
            zones={"us-east-1a": 3},
            on_demand=20,
            message="spot is cheap there",
            silent_since=AT + timedelta(minutes=1),
        ),
        acts=(Act(at=AT, text="pause by ann: lunch"),),
        pin=Pin(revision="3f9a1c2eb771", against="b7710de40a12"),
        outgoing=(Outgoing(revision="000000000000", since=AT, cause=OutgoingCause.SUPERSEDED),),
        quarantine=(Quarantined(revision="91aa0c3d55fe", reason=Reason.CRASH_LOOP, message="died 5 times", at=AT),),
        revisions=(revision(), revision("3f9a1c2eb771")),
        good=("3f9a1c2eb771",),
        cells=(cell,),
        generations={"b7710de40a12": 3},
        learned={"Unlisted": 2},
        base={"Embed": 4},
        queued_at=AT,
        surge={"Chat": 0},
        weights={"z.cell": 9000, "a.cell": 1000},
        ready_since={"r1": AT},
        peak=5,
        gates=(
            GateCall(
                gate="calendar",
                revision="b7710de40a12",
                step=1,
                key="chat/b7710de40a12/20261123T100000.0/calendar/1.2",
                body='{"ü":1}',
                next_at=AT,
                is_notice=True,
                round=2,
                failures=1,
                state=GateState.REFUSED,
                message="not on a Friday",
            ),
        ),
        sites=(
            SiteMemory(
                site=Site(zone="us-east-1a", market="spot"),
                state=list(SiteState)[-1],
                since=AT,
                contrary_since=AT,
                closures=2,
                placed={"Chat": 1},
            ),
        ),
        staged=Staged(
            job="heliostat-stage-chat-b77-20260101t120000",
            revision="b77",
            state=StagingState.FAILED,
            progress=Progress(done=3, size=4, nodes=2, ended=1),
            message="node1: forbids it (403)",
        ),
        is_removed=True,
    )


def plain_service(name: str, peak: int = 0) -> ServiceMemory:
    return ServiceMemory(name=name, wanted=wanted(name), peak=peak)


def event(service: str, message: str) -> Event:
    return Event(
        at=AT, service=service, kind="WeightChanged", message=message, revision="b7", by="ann", is_warning=True
    )


def entry(service: str, message: str) -> HistoryEntry:
    return HistoryEntry(
        at=AT,
        service=service,
        revision="b7710de40a12",
        commit="main@sha1:4f2c",
        outcome=Outcome.ROLLED_BACK,
        message=message,
        started_at=AT - timedelta(minutes=4),
        peak=5,
        acts=(Act(at=AT, text="abort by ann: errors"),),
    )
