"""Compaction on real raylets: nodes are emptied and end, and no request notices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from reconciler.embedded import EmbeddedCluster
from tests.e2e.conftest import lent
from tests.e2e.load import sending
from tests.e2e.project import Spec, pause, policy, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import holds_for, wait_for

pytestmark = pytest.mark.ray

RATE = 60
SETTINGS = {"enabled": True, "settle": "2s", "stallAfter": "90s"}

Clusters = Callable[..., Stage]


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Clusters]:
    """Lend a stage on a cluster of its own: its nodes end."""
    opened: list[Any] = []

    def make(zones: tuple[str, ...], cpus: float) -> Stage:
        cluster = EmbeddedCluster(zones=zones, cpus_per_node=cpus, drain=timedelta(seconds=5))
        cluster.start()
        opened.append(cluster.stop)
        manager = lent(cluster, request)
        stage = manager.__enter__()
        opened.append(lambda: manager.__exit__(None, None, None))
        return stage

    yield make
    for close in reversed(opened):
        close()


def sized(stage: Stage, name: str, replicas: int, revision: str = "v1", cpus: float = 0.5, **fields: Any) -> Spec:
    listed = [{"name": "Echo", "num_replicas": replicas, "ray_actor_options": {"num_cpus": cpus}}]
    return stage.spec(revision, name=name, deployments=listed, **fields)


def workers(stage: Stage) -> list[str]:
    """Return the addresses of the worker nodes that Ray calls alive."""
    url = f"{stage.cluster.dashboard_url}/api/v0/nodes?detail=1&limit=1000"
    rows = httpx.get(url, timeout=10, trust_env=False).json()["data"]["result"]["result"]
    return sorted(row["node_ip"] for row in rows if row["state"] == "ALIVE" and not row["is_head_node"])


def compaction(stage: Stage) -> dict[str, Any]:
    url = f"{stage.daemon.server}/api/v1/compaction"
    # A plan is made for each answer, on a machine that also runs the whole cluster.
    found: dict[str, Any] = httpx.get(url, timeout=60, trust_env=False).json()
    return found


def told(stage: Stage) -> str:
    events = stage.daemon.get("/api/v1/events")["events"]
    lines = [f"{event['at']} {event['service']} {event['kind']} {event['message'][:160]}" for event in events[-40:]]
    return "\n".join([*lines, stage.daemon.tail(30)])


def wait_compact(stage: Stage, within: float) -> float:
    """Wait until no node can go any more; return how long that took."""
    began = time.monotonic()
    wait_for(
        lambda: compaction(stage)["state"] == "Compact",
        within,
        "the cluster is compact",
        shows=lambda: told(stage),
        interval=1,
    )
    return time.monotonic() - began


@pytest.mark.slow
def test_a_spread_out_service_is_packed_onto_one_node_without_a_failed_request(own: Clusters) -> None:
    stage = own(("a", "b", "c"), 2.0)
    stage.deploy(sized(stage, "chat", 3), cluster=policy(compaction={**SETTINGS, "enabled": False}))
    assert len(workers(stage)) == 3
    wait_for(lambda: compaction(stage)["state"] == "Off", 30, "it was looked at", shows=lambda: told(stage))
    plan = compaction(stage)
    going = [node["ip"] for node in plan["nodes"] if node["goes"]]
    assert len(going) == 2, plan
    assert plan["isBest"], plan
    text = stage.daemon.cli("compaction").stdout
    assert "Off: compaction is not enabled" in text
    with sending(stage.load(rate=RATE)) as load:
        done = stage.daemon.cli("compaction", "--apply", "--by", "ada")
        assert done.returncode == 0, done.stderr
        wait_for(lambda: len(workers(stage)) == 1, 120, "one node is left", shows=lambda: told(stage), interval=1)
        wait_for(lambda: compaction(stage)["state"] == "Off", 30, "the order ends", shows=lambda: told(stage))
    assert load.failures() == []
    assert len(load.requests()) > RATE * 10
    assert stage.daemon.metric("heliostat_compaction_nodes_freed_total") == 2
    assert stage.daemon.status("chat")["replicas"]["ready"] == 3


@pytest.mark.slow
def test_compaction_a_rollout_in_the_middle_and_a_sick_neighbour(own: Clusters) -> None:
    stage = own(("a", "b", "c") * 2, 2.0)
    sick_file = stage.folder / "sick"
    ill = sized(stage, "ill", 1, args={"sick_file": str(sick_file)})
    chat = sized(stage, "chat", 6, steps=(weight(50), pause(1)))
    search = sized(stage, "search", 3)
    cold = {**SETTINGS, "enabled": False}
    stage.deploy(chat, search, ill, cluster=policy(compaction=cold), within=180)
    assert len(workers(stage)) == 6
    sick_file.touch()
    wait_for(lambda: stage.daemon.status("ill")["health"] != "Healthy", 60, "ill is sick", interval=1)
    with sending(stage.load(rate=RATE)) as load:
        # Nine half CPUs, one more kept free, and a tenth for the sick one, wherever it is tried: three nodes of two.
        stage.project.push(chat, search, ill, cluster=policy(compaction=SETTINGS))
        wait_for(lambda: len(workers(stage)) == 5, 180, "a first node is free", shows=lambda: told(stage), interval=1)
        newer = sized(stage, "chat", 6, "v2", steps=(weight(50), pause(1)))
        sha = stage.project.push(newer, search, ill, cluster=policy(compaction=SETTINGS))
        stage.daemon.wait_commit(sha)
        stage.daemon.wait_settled("chat", "v2", 240)
        # Serve starts the sick one again and again, on ever other nodes: it never runs, and keeps none of them.
        wait_for(lambda: len(workers(stage)) <= 3, 300, "three nodes are left", shows=lambda: told(stage), interval=1)
        wait_compact(stage, 300)
    final = compaction(stage)
    assert load.failures() == [], told(stage)
    assert len(workers(stage)) <= 3, final
    assert final["isBest"]
    assert final["freed"] == 6 - len(workers(stage))
    assert stage.daemon.status("chat")["replicas"]["ready"] == 6


@pytest.mark.slow
def test_what_somebody_else_runs_keeps_its_node_and_a_kill_of_the_daemon_loses_nothing(own: Clusters) -> None:
    stage = own(("a", "b", "c"), 2.0)
    chat = sized(stage, "chat", 3)
    stage.deploy(chat, cluster=policy(compaction={**SETTINGS, "enabled": False}))
    foreign = {
        "name": "theirs",
        "route_prefix": "/theirs",
        "import_path": "echo:build",
        "runtime_env": stage.serve()["applications"][stage.cells("chat")[0]]["deployed_app_config"]["runtime_env"],
        "deployments": [{"name": "Echo", "num_replicas": 1, "ray_actor_options": {"num_cpus": 1.0}}],
    }
    document = stage.serve()
    ours = [entry["deployed_app_config"] for entry in document["applications"].values()]
    stage.put({"http_options": document["http_options"], "applications": [*ours, foreign]})
    wait_for(
        lambda: stage.serve()["applications"].get("theirs", {}).get("status") == "RUNNING",
        60,
        "theirs runs",
        interval=1,
    )
    with sending(stage.load(rate=RATE)) as load:
        stage.project.push(chat, cluster=policy(compaction=SETTINGS))
        wait_for(lambda: compaction(stage)["drains"] != [], 60, "a node drains", shows=lambda: told(stage))
        stage.daemon.kill()
        stage.daemon.start()
        wait_compact(stage, 240)
    assert load.failures() == []
    assert stage.serve()["applications"]["theirs"]["status"] == "RUNNING"
    plan = compaction(stage)
    assert plan["freed"] >= 1
    assert any("theirs, which is not Heliostat's" in node["why"] for node in plan["nodes"])


def slow_chat(stage: Stage, revision: str = "v1", start: float = 8) -> Spec:
    """Return a service whose replicas start slowly, so that emptying a node takes a while."""
    return sized(stage, "chat", 6, revision, cpus=0.4, steps=(weight(50), pause(1)), args={"start_seconds": start})


def events(stage: Stage, *kinds: str) -> list[dict[str, Any]]:
    """Return the events of these kinds, the oldest first."""
    found: list[dict[str, Any]] = stage.daemon.get("/api/v1/events?limit=500")["events"]
    return sorted((event for event in found if event["kind"] in kinds), key=lambda event: event["id"])


def wait_draining(stage: Stage) -> None:
    wait_for(
        lambda: any(drain["state"] == "draining" and drain["replicas"] for drain in compaction(stage)["drains"]),
        120,
        "a node is being emptied",
        shows=lambda: told(stage),
        interval=0.5,
    )


def closed_now() -> dict[str, str]:
    """Return hours that are half a day away."""
    begins = datetime.now(UTC) + timedelta(hours=12)
    return {"allow": f"daily {begins:%H:%M}-{begins + timedelta(hours=1):%H:%M}", "timezone": "UTC"}


@pytest.mark.slow
def test_a_rollout_and_the_end_of_the_hours_stop_compaction_between_two_nodes(own: Clusters) -> None:
    stage = own(("a", "b", "c") * 2, 2.0)
    stage.deploy(slow_chat(stage), cluster=policy(compaction={**SETTINGS, "enabled": False}), within=180)
    with sending(stage.load(rate=RATE)) as load:
        stage.project.push(slow_chat(stage), cluster=policy(compaction=SETTINGS))
        wait_draining(stage)
        sha = stage.project.push(slow_chat(stage, "v2"), cluster=policy(compaction=SETTINGS))
        stage.daemon.wait_commit(sha)
        stage.daemon.wait_settled("chat", "v2", 300)
        wait_draining(stage)
        began, promoted = events(stage, "NodeDrainBegun"), events(stage, "Promoted")[-1]
        started = events(stage, "RolloutStarted")[-1]
        assert began[0]["id"] < started["id"] < promoted["id"], told(stage)
        assert not [one for one in began if started["id"] < one["id"] < promoted["id"]], told(stage)
        assert events(stage, "NodeDrainGivenUp") == []
        before = len(began)
        stage.project.push(slow_chat(stage, "v2"), cluster=policy(compaction={**SETTINGS, "windows": [closed_now()]}))
        wait_for(
            lambda: not compaction(stage)["drains"] and "outside of" in compaction(stage)["message"],
            120,
            "what was begun has ended, and nothing more begins",
            shows=lambda: told(stage),
            interval=1,
        )
        # It may have begun one more node before the commit was read; none of those that are left goes after that.
        freed = len(events(stage, "NodeDrainBegun"))
        left = 6 - freed
        assert freed <= before + 1
        assert left > 2, told(stage)
        wait_for(lambda: len(workers(stage)) == left, 60, "Ray has ended on them", shows=lambda: told(stage))
        holds_for(lambda: len(workers(stage)) == left, 15, "no node goes", shows=lambda: told(stage))
    assert load.failures() == [], told(stage)
    assert len(events(stage, "NodeFreed")) == freed


@pytest.mark.slow
def test_a_node_that_is_needed_by_the_time_that_it_is_empty_is_not_given_back(own: Clusters) -> None:
    stage = own(("a", "b", "c"), 2.0)
    slow = sized(stage, "chat", 3, cpus=0.5, args={"start_seconds": 50})
    stage.deploy(slow, cluster=policy(compaction={**SETTINGS, "enabled": False}), within=240)
    with sending(stage.load(rate=RATE)) as load:
        stage.project.push(slow, cluster=policy(compaction=SETTINGS))
        wait_draining(stage)
        # Only a node of its own holds it, and Serve says so after half a minute.
        large = sized(stage, "large", 1, cpus=2.0)
        stage.project.push(slow, large, cluster=policy(compaction=SETTINGS))
        wait_for(
            lambda: bool(events(stage, "NodeKept")), 180, "the node is kept", shows=lambda: told(stage), interval=1
        )
        assert "wait for room" in events(stage, "NodeKept")[0]["message"]
        assert stage.daemon.metric("heliostat_compaction_nodes_freed_total") == 0
        stage.cluster.add_node("a")
        stage.daemon.wait_settled("large", "v1", 180)
        assert len(events(stage, "NodeDrainBegun")) == 1, told(stage)
    assert load.failures() == [], told(stage)
    assert stage.daemon.status("chat")["replicas"]["ready"] == 3
