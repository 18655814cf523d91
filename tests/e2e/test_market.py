"""Spot nodes of a real cluster: a base that stays, a node that goes after a notice, and one that dies without any."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from reconciler.embedded import EmbeddedNode
from specs.placement import MARKET_LABEL
from tests.e2e.load import sending
from tests.e2e.project import Spec, pause, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ECHO = {"name": "Echo", "num_replicas": 4, "ray_actor_options": {"num_cpus": 1}}
NOTICE = 60.0
"""Seconds from a notice to the end of its node."""

LEFT_WITHIN = 3.0
"""A node that died without notice gets no requests any more after so many seconds."""


@pytest.fixture
def spot(stage: Stage) -> Iterator[list[EmbeddedNode]]:
    """Add two spot nodes to the three of the cluster, which have no label of a market and stay."""
    nodes = [stage.cluster.add_node(zone, labels={MARKET_LABEL: "spot"}) for zone in "ab"]
    yield nodes
    for node in nodes:
        # One that was drained has ended by itself.
        if node.ip in alive(stage) and node.ip in stage.cluster.nodes:
            stage.cluster.kill_node(node.ip)


def alive(stage: Stage) -> set[str]:
    """Return the addresses of the nodes that Ray calls alive."""
    url = f"{stage.cluster.dashboard_url}/api/v0/nodes?detail=1&limit=1000"
    rows = httpx.get(url, timeout=10, trust_env=False).json()["data"]["result"]["result"]
    return {row["node_ip"] for row in rows if row["state"] == "ALIVE"}


def chat(stage: Stage, revision: str = "v1") -> Spec:
    placement = {"market": {"prefer": "spot", "onDemandBase": 1}}
    return stage.spec(revision, deployments=[ECHO], steps=[weight(50), pause(1)], extra={"placement": placement})


def places(stage: Stage) -> Counter[str]:
    """Return the running replicas per market, and per node, as Ray shows them."""
    nodes = {node["id"]: node for node in stage.daemon.get("/api/v1/nodes")["nodes"]}
    found: Counter[str] = Counter()
    for name, application in stage.serve()["applications"].items():
        for deployment in application["deployments"].values() if name.startswith("chat.") else ():
            for one in deployment["replicas"]:
                node = nodes.get(one.get("node_id"), {})  # A starting one has none yet.
                if one["state"] == "RUNNING":
                    found[node.get("labels", {}).get(MARKET_LABEL, "on-demand")] += 1
                found[str(node.get("ip"))] += 1
    return found


def settled(stage: Stage, within: float, spot: int, stays: int) -> None:
    wait_for(
        lambda: (found := places(stage))["spot"] == spot and found["on-demand"] == stays,
        within,
        f"{spot} on spot, {stays} on demand",
        shows=lambda: f"{places(stage)}\n{stage.daemon.story('chat')}",
    )


def tell(stage: Stage, node: EmbeddedNode, seconds: float) -> httpx.Response:
    """Send a notice as a cloud's watcher does."""
    deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    headers = {"Authorization": f"Bearer {stage.daemon.token()}"}
    given = {"deadline": deadline.isoformat(), "by": "watcher", "why": "spot interruption"}
    url = f"{stage.daemon.server}/api/v1/nodes/{node.ip}/preemption"
    return httpx.post(url, json=given, headers=headers, timeout=10, trust_env=False)


def test_a_base_stays_while_spot_nodes_go_with_and_without_notice(stage: Stage, spot: list[EmbeddedNode]) -> None:
    daemon, (first, second) = stage.daemon, spot
    stage.deploy(chat(stage))
    settled(stage, 30, spot=3, stays=1)
    with sending(stage.load(rate=40)) as load, stage.watch() as watch:
        stage.project.push(chat(stage, "v2"))
        daemon.wait_settled("chat", "v2", 120)
        settled(stage, 30, spot=3, stays=1)
        doomed, other = (first, second) if places(stage)[first.ip] else (second, first)
        told = time.monotonic()
        assert tell(stage, doomed, NOTICE).status_code == 202
        assert tell(stage, doomed, NOTICE + 5).json()["event"] == 0, "the same notice again"
        wait_for(
            lambda: places(stage)[doomed.ip] == 0,
            NOTICE,
            "the replicas left",
            shows=lambda: f"{places(stage)}\n{daemon.story('chat')}\n{daemon.tail(40)}",
        )
        print(f"left {time.monotonic() - told:.1f} s after the notice")
        settled(stage, 30, spot=3, stays=1)
        assert load.failures() == [], watch.around(load.failures())
        lost_at = time.time()
        stage.cluster.kill_node(other.ip)
        settled(stage, 90, spot=0, stays=4)
        print(f"on demand {time.time() - lost_at:.1f} s after the loss")
    late = [one for one in load.failures() if not lost_at - 1 <= one.start <= lost_at + LEFT_WITHIN]
    assert late == [], watch.around(late)
    kinds = [event["kind"] for event in daemon.get("/api/v1/events")["events"]]
    assert kinds.count("PreemptionNoted") == 1
    assert daemon.metric("heliostat_preemption_notices_total") == 1
