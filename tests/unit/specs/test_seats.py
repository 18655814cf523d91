"""Whose replica is where."""

from __future__ import annotations

from specs.observed import CellSeen, CellStatus, DeploymentSeen, Replica, ReplicaState
from specs.seats import seats_of


def seen(name: str, *replicas: Replica) -> CellSeen:
    deployment = DeploymentSeen(name="Echo", status="HEALTHY", message="", target=1, replicas=replicas)
    return CellSeen(
        name=name,
        status=CellStatus.RUNNING,
        message="",
        route_prefix=None,
        is_declarative=True,
        config=None,
        deployments=(deployment,),
    )


def test_services_come_in_order_and_what_is_not_ours_last() -> None:
    running = Replica(id="r1", state=ReplicaState.RUNNING, node="n1")
    waiting = Replica(id="r2", state=ReplicaState.STARTING)
    found = seats_of(
        [seen("theirs", running), seen("chat.v2.a.-.0", waiting, running), seen("alpha.v1.-.-.0", running)]
    )
    assert [(seat.service, seat.revision, seat.node) for seat in found] == [
        ("alpha", "v1", "n1"),
        ("chat", "v2", "n1"),
        ("chat", "v2", ""),
        ("", "", "n1"),
    ]
    assert found[-1].application == "theirs"
