"""A service over the zones of a real cluster: spread, a zone that dies under load, and its return."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.load import Record, sending
from tests.e2e.project import Spec, pause, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ECHO = {"name": "Echo", "num_replicas": 3, "ray_actor_options": {"num_cpus": 0.1}}
STEPS = [weight(34), pause(1)]

LEFT_WITHIN = 3.0
"""A lost zone gets no requests any more after so many seconds."""


def spread(stage: Stage, revision: str = "v1", **zones: Any) -> Spec:
    """Return a service of three replicas over the zones."""
    return stage.spec(revision, deployments=[ECHO], steps=STEPS, extra={"placement": {"zones": zones}})


def per_zone(stage: Stage) -> dict[str, int]:
    """Return the running replicas per zone as Ray shows them, over all revisions."""
    zones = {node["id"]: node["zone"] for node in stage.daemon.get("/api/v1/nodes")["nodes"]}
    found: Counter[str] = Counter()
    for name, application in stage.serve()["applications"].items():
        for deployment in application["deployments"].values() if name.startswith("chat.") else ():
            running = [one for one in deployment["replicas"] if one["state"] == "RUNNING"]
            found.update(zones.get(one["node_id"], "?") for one in running)
    return dict(sorted(found.items()))


def settled(stage: Stage, within: float, **wanted: int) -> None:
    wait_for(
        lambda: per_zone(stage) == wanted and stage.daemon.status("chat")["reason"] == "Steady",
        within,
        f"{wanted} and steady",
        shows=lambda: f"{per_zone(stage)}\n{stage.daemon.story('chat')}",
    )


def _broke_off(records: list[Record], lost_at: float) -> list[Record]:
    """Return failures that are not those of the moment at which the replicas died."""
    return [record for record in records if not lost_at - 1 <= record.start <= lost_at + LEFT_WITHIN]


@dataclass(frozen=True, kw_only=True)
class _Loss:
    at: float
    ip: str


def _lose(stage: Stage, zone: str) -> _Loss:
    ip = next(node.ip for node in stage.cluster.nodes.values() if node.zone == zone)
    at = time.time()
    stage.cluster.kill_node(ip)
    return _Loss(at=at, ip=ip)


def test_a_service_is_spread_loses_a_zone_and_gets_it_back_under_load(stage: Stage) -> None:
    daemon = stage.daemon
    stage.deploy(spread(stage, min=2))
    settled(stage, 30, a=1, b=1, c=1)
    with sending(stage.load(rate=50)) as load, stage.watch() as watch:
        stage.project.push(spread(stage, "v2", min=2))
        daemon.wait_settled("chat", "v2", 120)
        settled(stage, 30, a=1, b=1, c=1)
        assert load.failures() == [], watch.around(load.failures())
        loss = _lose(stage, "c")
        try:
            wait_for(lambda: sum(per_zone(stage).get(z, 0) for z in "ab") == 3, 60, "rebuilt", shows=daemon.tail)
            wait_for(lambda: daemon.status("chat")["reason"] == "Steady", 30, "steady", shows=daemon.tail)
        finally:
            stage.cluster.add_node("c")
        settled(stage, 120, a=1, b=1, c=1)
    late = _broke_off(load.failures(), loss.at)
    assert late == [], watch.around(late)
    assert watch.peak("chat") <= 3 + 1
