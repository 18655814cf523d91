"""Compaction beside Ray's own, on the same fragmented cluster: nodes used, time, failed requests, a sick neighbour."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from reconciler.embedded import EmbeddedCluster
from tests.bench import report
from tests.e2e.load import sending
from tests.e2e.project import Spec, policy
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for

NODES = 6
RATE = 60
SETTLE_SECONDS = 10
"""Both wait for so long until they take a service for settled; Ray's own default is five minutes."""
FREED = "heliostat_compaction_nodes_freed_total"
LONGEST_SECONDS = 300.0
STILL_SECONDS = 60.0
"""No change of nodes for so long, and nothing under way, is the end."""

IDLE_SECONDS = 5.0
"""So long after its last replica a node is taken away from Ray's own compaction, as a cluster autoscaler would. Serve
moves nothing more until the emptied node is gone; Ray's autoscaler has the same wait, of a minute by default."""

RAYS_OWN = {
    "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1",
    "RAY_SERVE_NODE_COMPACTION_DELAY_S": str(SETTLE_SECONDS),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run."""

    before: int
    after: int
    seconds: float
    requests: int
    failed: int
    freed: int


def run() -> None:
    """Measure and write docs/benchmarks/compaction-ray.md."""
    outcomes = {
        (who, sick): _run(by_ray=who == "Ray", sick=sick) for sick in (False, True) for who in ("Heliostat", "Ray")
    }
    _write(outcomes)


def _run(*, by_ray: bool, sick: bool) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="heliostat-bench-"))
    environment = RAYS_OWN if by_ray else {}
    try:
        with EmbeddedCluster(
            zones=("a", "b", "c") * (NODES // 3), cpus_per_node=2.0, drain=timedelta(seconds=5), environment=environment
        ) as cluster:
            stage = Stage(folder, cluster)
            try:
                return _measured(stage, by_ray=by_ray, sick=sick)
            finally:
                stage.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(stage: Stage, *, by_ray: bool, sick: bool) -> Outcome:
    """Fill every node with a large replica and a small one, take the large ones away, and see what happens."""
    large, small = _sized(stage, "filler", NODES, 1.4), _sized(stage, "chat", NODES, 0.4)
    sick_file = stage.folder / "sick"
    ill = _sized(stage, "ill", 1, 0.1, args={"sick_file": str(sick_file)})
    others = [ill] if sick else []
    off = policy(prune={"enabled": True, "maxServices": 1, "maxFraction": "100%"})
    stage.deploy(large, *others, cluster=off, within=180)
    stage.deploy(large, small, *others, cluster=off, within=180)
    if sick:
        sick_file.touch()
        wait_for(lambda: stage.daemon.status("ill")["health"] != "Healthy", 90, "one is sick", interval=1)
    settings = {"enabled": not by_ray, "settle": f"{SETTLE_SECONDS}s", "stallAfter": "90s"}
    with sending(stage.load(rate=RATE)) as load:
        pruned = {**off, "spec": {**off["spec"], "compaction": settings}}
        stage.project.push(small, *others, cluster=pruned)
        stage.wait_gone("filler")
        before, began = len(_used(stage)), time.monotonic()
        after, changed_at = _watched(stage, _Autoscaler(stage) if by_ray else None)
    outcome = Outcome(
        before=before,
        after=after,
        seconds=max(0.0, changed_at - began),
        requests=len(load.requests()),
        failed=len(load.failures()),
        freed=NODES - (len(stage.cluster.nodes) - 1) if by_ray else round(stage.daemon.metric(FREED)),
    )
    print(f"{'Ray' if by_ray else 'Heliostat'}, {'one sick' if sick else 'all well'}: {outcome}", flush=True)
    return outcome


def _sized(stage: Stage, name: str, replicas: int, cpus: float, **fields: Any) -> Spec:
    listed = [{"name": "Echo", "num_replicas": replicas, "ray_actor_options": {"num_cpus": cpus}}]
    return stage.spec("v1", name=name, deployments=listed, **fields)


def _used(stage: Stage) -> frozenset[str]:
    """Return the nodes that hold replicas."""
    return frozenset(
        node
        for application in stage.serve()["applications"].values()
        for deployment in application["deployments"].values()
        for replica in deployment["replicas"]
        if (node := replica.get("node_id"))  # A starting one has none.
    )


class _Autoscaler:
    """Takes nodes away that have held nothing for a while."""

    def __init__(self, stage: Stage) -> None:
        self._cluster = stage.cluster
        self._idle_since: dict[str, float] = {}

    def look(self, used: frozenset[str], now: float) -> None:
        for node in [node for node in self._cluster.nodes.values() if node.zone]:
            if node.id in used:
                self._idle_since.pop(node.ip, None)
            elif now - self._idle_since.setdefault(node.ip, now) >= IDLE_SECONDS:
                self._cluster.kill_node(node.ip)


def _watched(stage: Stage, autoscaler: _Autoscaler | None) -> tuple[int, float]:
    """Return how many nodes are used in the end, and when that number was reached."""
    began = changed_at = time.monotonic()
    count = len(_used(stage))

    def is_over() -> bool:
        nonlocal count, changed_at
        now, used = time.monotonic(), _used(stage)
        found = len(used)
        if autoscaler is not None:
            autoscaler.look(used, now)
        if found != count:
            count, changed_at = found, now
        return now - changed_at >= STILL_SECONDS or now - began >= LONGEST_SECONDS

    wait_for(is_over, LONGEST_SECONDS + 30, "nothing moves any more", interval=1)
    return count, changed_at


def _write(outcomes: Mapping[tuple[str, bool], Outcome]) -> None:
    rows = [
        [
            f"{who}, {'one service sick' if sick else 'all well'}",
            one.before,
            one.after,
            f"{one.seconds:.0f}",
            one.freed,
            f"{one.requests:,}",
            one.failed,
        ]
        for (who, sick), one in outcomes.items()
    ]
    head = [
        "who, and how things are",
        "nodes used before",
        "after",
        "seconds",
        "nodes gone",
        "requests",
        "failed",
    ]
    sections = [
        f"A real Ray cluster of {NODES} worker nodes of 2 CPUs on this machine. Each holds a replica of 1.4 CPUs and "
        f"one of 0.4; the large ones are taken away, and {NODES} small ones are left on {NODES} nodes, while {RATE} "
        "requests a second go to them. "
        f"Both ways wait {SETTLE_SECONDS} s before they call a service settled (Ray's default is "
        "300 s). Ray's own compaction is `RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY=1`, with Heliostat's off; everything "
        "else, the gateway included, is the same. Serve itself frees no node, and moves nothing more until the one "
        "that it emptied is gone: in its runs the benchmark takes a node away that has held nothing for "
        f"{IDLE_SECONDS:.0f} s, as a cluster autoscaler would. *One service sick*: a service of one replica fails its "
        "health checks all the time. A run ends when the number of used nodes has not changed for "
        f"{STILL_SECONDS:.0f} s.",
        report.table(head, rows),
        "Heliostat keeps room for one more replica free. A replica that runs keeps its node while its service is sick. "
        "The one here fails each of its starts, and Serve tries it on another node every two seconds or so: to "
        "Heliostat it keeps none of them.",
    ]
    report.write("compaction-ray", "Compaction beside Ray's own", sections)
