"""Twenty services: what the daemon costs at rest, and HAProxy reloads over 20 new services and 20 rollouts."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from reconciler.embedded import EmbeddedCluster
from tests.bench import report
from tests.bench.processes import cpu_seconds, resident_mib
from tests.e2e.project import Spec, policy
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for

SERVICES = 20
REST_SECONDS = 60.0
SETTLE_SECONDS = 15.0
TINY = {"ray_actor_options": {"num_cpus": 0.01}}


def run() -> None:
    """Measure and write docs/benchmarks/fleet.md."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-bench-"))
    try:
        with EmbeddedCluster(cpus_per_node=4.0) as cluster:
            stage = Stage(folder, cluster)
            try:
                _measure(stage)
            finally:
                stage.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(stage: Stage) -> None:
    daemon = stage.daemon
    all_at_once = policy(budget={"maxServicesMoving": SERVICES})
    specs = [
        Spec(name=f"service-{number:02}", deployments=[{"name": "Echo", "num_replicas": 1, **TINY}])
        for number in range(SERVICES)
    ]
    began = time.monotonic()
    stage.project.push(*specs, cluster=all_at_once)
    daemon.start()
    haproxy = daemon.haproxy()
    _all_serve(stage, specs, "v1")
    deployed = time.monotonic() - began

    began_rest = time.monotonic()
    wait_for(lambda: time.monotonic() - began_rest > SETTLE_SECONDS, 60, "everything has settled")
    pids = {"daemon": daemon.pid, "HAProxy": haproxy or 0}
    before, began_rest = {name: cpu_seconds([pid]) for name, pid in pids.items()}, time.monotonic()
    wait_for(lambda: time.monotonic() - began_rest > REST_SECONDS, 120, "a while of rest")
    took = time.monotonic() - began_rest
    cpu = {name: 100 * (cpu_seconds([pid]) - before[name]) / took for name, pid in pids.items()}
    memory = {name: resident_mib(pid) for name, pid in pids.items()}

    print(f"at rest over {took:.0f} s: CPU % {cpu}, MiB {memory}", flush=True)
    began = time.monotonic()
    daemon.wait_commit(stage.project.push(*(replace(spec, revision="v2") for spec in specs), cluster=all_at_once))
    _all_serve(stage, [replace(spec, revision="v2") for spec in specs], "v2")
    rolled = time.monotonic() - began
    reloads, same = daemon.reloads(), daemon.haproxy() == haproxy
    _write(cpu, memory, (deployed, rolled, took), (reloads, same))


def _all_serve(stage: Stage, specs: list[Spec], revision: str) -> None:
    def done() -> bool:
        found = {service["name"]: service for service in stage.daemon.get("/api/v1/status")["services"]}
        at_rest = [spec for spec in specs if found.get(spec.name, {}).get("sync") == "Synced"]
        print(f"{len(at_rest)} of {len(specs)} at {revision}", flush=True)
        return len(at_rest) == len(specs)

    wait_for(done, 400, f"all services run {revision}", shows=stage.daemon.tail, interval=5)
    assert {stage.daemon.revision_at(f"/{spec.name}") for spec in specs} == {revision}


def _write(
    cpu: dict[str, float], memory: dict[str, float], times: tuple[float, float, float], haproxy: tuple[int, bool]
) -> None:
    deployed, rolled, took = times
    reloads, same = haproxy
    rows = [[name, f"{cpu[name]:.1f} %", f"{memory[name]:.0f} MiB"] for name in cpu]
    goals = [
        ["daemon at rest, CPU of one core", "<= 5 %", f"{cpu['daemon']:.1f} %"],
        ["daemon at rest, resident memory", "<= 150 MiB", f"{memory['daemon']:.0f} MiB"],
        [
            "HAProxy reloads over 20 new services and 20 rollouts",
            "0",
            f"{reloads} ({'same' if same else 'another'} process)",
        ],
    ]
    how = (
        f"{SERVICES} services of one replica each on a real Ray cluster (head and three worker nodes on this machine), "
        f"deployed by one commit in {deployed:.0f} s. After {SETTLE_SECONDS:.0f} s without a change, CPU time over "
        f"{took:.0f} s from /proc. Then one commit rolled all {SERVICES} out to another revision, in {rolled:.0f} s."
    )
    sections = [
        how,
        report.table(["at rest", "CPU of one core", "resident memory"], rows),
        "## Figures to reach",
        report.table(["figure", "goal", "measured"], goals),
    ]
    report.write("fleet", "Twenty services", sections)
