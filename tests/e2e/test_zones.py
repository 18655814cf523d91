"""A service over the zones of a real cluster: spread, a zone that dies under load, and its return."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from reconciler.embedded import EmbeddedCluster
from tests.e2e.conftest import lent
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


def _last_failure(records: list[Record], lost_at: float) -> str:
    """Say how long requests failed."""
    if not records:
        return "no request failed"
    return f"{len(records)} requests failed, the last began {max(r.start for r in records) - lost_at:.1f} s after it"


@pytest.fixture
def pairs(stage: Stage) -> Iterator[Stage]:
    """Lend the stage with two nodes in each zone."""
    more = [stage.cluster.add_node(zone).ip for zone in "abc"]
    yield stage
    for ip in more:
        if ip in stage.cluster.nodes:
            stage.cluster.kill_node(ip)


def _lose(stage: Stage, zone: str) -> tuple[float, int]:
    """Kill all nodes of a zone; return when that began, and how many there were."""
    doomed = [node.ip for node in stage.cluster.nodes.values() if node.zone == zone]
    at = time.time()
    for ip in doomed:
        stage.cluster.kill_node(ip)
    return at, len(doomed)


def test_a_service_is_spread_loses_a_zone_and_gets_it_back_under_load(pairs: Stage) -> None:
    stage, daemon = pairs, pairs.daemon
    stage.deploy(spread(stage, min=2))
    settled(stage, 30, a=1, b=1, c=1)
    with sending(stage.load(rate=50)) as load, stage.watch() as watch:
        stage.project.push(spread(stage, "v2", min=2))
        daemon.wait_settled("chat", "v2", 120)
        settled(stage, 30, a=1, b=1, c=1)
        assert load.failures() == [], watch.around(load.failures())
        lost_at, nodes = _lose(stage, "c")
        assert nodes == 2
        try:
            wait_for(lambda: sum(per_zone(stage).get(z, 0) for z in "ab") == 3, 60, "rebuilt", shows=daemon.tail)
            print(f"rebuilt {time.time() - lost_at:.1f} s after the loss; {_last_failure(load.failures(), lost_at)}")
            wait_for(lambda: daemon.status("chat")["reason"] == "Steady", 30, "steady", shows=daemon.tail)
        finally:
            stage.cluster.add_node("c")
        back_at = time.time()
        settled(stage, 120, a=1, b=1, c=1)
        print(f"spread again {time.time() - back_at:.1f} s after the return")
    late = _broke_off(load.failures(), lost_at)
    assert late == [], watch.around(late)
    assert watch.peak("chat") <= 3 + 1


@pytest.fixture
def stage_in_a(ray_cluster: EmbeddedCluster, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Lend a stage whose gateway is in zone a."""
    with lent(ray_cluster, request, flags=("--zone=a",)) as made:
        yield made


def sides(stage: Stage) -> dict[str, float]:
    """Return the requests that were answered in the gateway's zone, and elsewhere."""
    found = {}
    for line in stage.daemon.metrics().splitlines():
        if line.startswith("heliostat_gateway_zone_requests_total"):
            side = line.partition('side="')[2].partition('"')[0]
            found[side] = found.get(side, 0.0) + float(line.rsplit(" ", 1)[1])
    return found


def test_a_gateway_stays_in_its_zone_up_to_what_the_replicas_there_take(stage_in_a: Stage) -> None:
    stage, room = stage_in_a, 3
    listed = {**ECHO, "max_ongoing_requests": room}
    stage.deploy(stage.spec(deployments=[listed], steps=STEPS, extra={"placement": {"zones": {}}}))
    settled(stage, 30, a=1, b=1, c=1)
    in_a = {entry["replica"] for entry in replicas_in(stage, "a")}
    # The rollout is over: from the next look on the row prefers the zone.
    wait_for(
        lambda: {asked(stage) for _ in range(8)} == in_a, 20, "all requests stay in zone a", shows=stage.daemon.tail
    )
    with ThreadPoolExecutor(2 * room) as pool:
        # Twice what the zone takes, at once: the other half goes elsewhere, and is not refused by anybody.
        answers = list(pool.map(lambda _: stage.daemon.ask("/chat/slow?seconds=2"), range(2 * room)))
    assert [answer.status_code for answer in answers] == [200] * 2 * room
    before = sides(stage)
    assert before["far"] >= room
    assert {asked(stage) for _ in range(20)} == in_a
    wait_for(lambda: sides(stage)["near"] >= before["near"] + 20, 10, "they are counted", shows=lambda: sides(stage))
    assert sides(stage)["far"] == before["far"]
    assert stage.daemon.status("chat")["crossing"]["zone"] == "a"
    assert "the gateway's own" in stage.daemon.cli("status", "chat").stdout
    assert stage.daemon.reloads() == 0


def replicas_in(stage: Stage, zone: str) -> list[dict[str, Any]]:
    """Return what runs in a zone."""
    found = stage.daemon.get("/api/v1/nodes")
    nodes = {node["id"] for node in found["nodes"] if node["zone"] == zone}
    return [entry for entry in found["replicas"] if entry["node"] in nodes]


def asked(stage: Stage) -> str:
    """Return the replica that answers."""
    return str(stage.daemon.ask("/chat/who").json()["replica"])
