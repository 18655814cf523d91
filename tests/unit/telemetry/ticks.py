"""Ticks as the loop makes them, from a few words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from reconciler.planning.plan import Plan
from specs.decisions import Decision
from specs.desired import ClusterSettings, Commit, Desired
from specs.effects import Effect
from specs.memory import HistoryEntry, Memory
from specs.observed import CellSeen, CellStatus, DeploymentSeen, GatewaySeen, Node, Observed, Replica, ReplicaState
from specs.reasons import Reason
from specs.status import ClusterStatus
from specs.world import World
from tests.unit.api.backends import chat, cluster

AT = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)
TIMINGS = {
    "observe": timedelta(milliseconds=20),
    "plan": timedelta(milliseconds=2),
    "apply": timedelta(milliseconds=300),
    "report": timedelta(milliseconds=1),
}


@dataclass(frozen=True, kw_only=True)
class Results:
    problems: Mapping[str, tuple[Reason, str]] = field(default_factory=dict)
    done: tuple[Effect, ...] = ()
    is_saved: bool = True


@dataclass(frozen=True, kw_only=True)
class SampleTick:
    world: World
    plan: Plan
    results: Results
    status: ClusterStatus
    timings: Mapping[str, timedelta]


def tick(
    *decisions: Decision,
    now: datetime = AT,
    commit: str = "4f2c",
    committed_at: datetime = AT,
    complete: bool = True,
    nodes: tuple[Node, ...] = (),
    history: tuple[HistoryEntry, ...] = (),
    results: Results | None = None,
    status: ClusterStatus | None = None,
    timings: Mapping[str, timedelta] = TIMINGS,
) -> SampleTick:
    replicas = (
        Replica(id="r1", state=ReplicaState.RUNNING),
        Replica(id="r2", state=ReplicaState.RUNNING),
        Replica(id="r3", state=ReplicaState.STOPPING),
    )
    deployment = DeploymentSeen(name="Chat", status="HEALTHY", message="", target=2, replicas=replicas)
    cell = CellSeen(
        name="chat.3f9a1c2eb771.us-east-1a.-.1",
        status=CellStatus.RUNNING,
        message="",
        route_prefix=None,
        is_declarative=True,
        config=None,
        deployments=(deployment,),
    )
    world = World(
        now=now,
        desired=Desired(
            commit=Commit(sha=commit, branch="main", author="ann", subject="s", committed_at=committed_at),
            services=(),
            errors=(),
            settings=ClusterSettings(),
        ),
        observed=Observed(
            at=now,
            complete=complete,
            cells=(cell,),
            nodes=nodes,
            gateway=GatewaySeen(is_direct=True, lanes=(), reloads=2),
        ),
        memory=Memory(),
    )
    plan = Plan(world=world, decisions={"chat": decisions}, memory=Memory(), events=(), history=history)
    return SampleTick(
        world=world,
        plan=plan,
        results=results or Results(),
        status=status or cluster(chat()),
        timings=timings,
    )
