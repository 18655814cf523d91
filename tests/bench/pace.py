"""From a commit in a local repository to the first call that changes something in Ray."""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from reconciler.embedded import EmbeddedCluster
from tests.bench import report
from tests.e2e.project import Spec
from tests.e2e.stage import Stage
from tests.e2e.tcp_proxy import Wire, wire_to
from tests.e2e.waiting import wait_for

SCALES = 20
ROLLOUTS = 5


def run() -> None:
    """Measure and write docs/benchmarks/pace.md."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-bench-"))
    try:
        with EmbeddedCluster(cpus_per_node=4.0) as cluster, wire_to(cluster.dashboard_url) as wire:
            stage = Stage(folder, cluster, wire=wire)
            try:
                scales, rollouts = _measure(stage)
            finally:
                stage.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _write(scales, rollouts)


def _measure(stage: Stage) -> tuple[list[float], list[float]]:
    spec = stage.spec(steps=[])
    stage.deploy(spec)
    scales = [_scaled(stage, replace(spec, replicas=2 + number % 2)) for number in range(1, SCALES + 1)]
    stage.deploy(spec)
    rollouts = [_rolled(stage, replace(spec, revision=f"r{number}")) for number in range(ROLLOUTS)]
    return scales, rollouts


def _scaled(stage: Stage, spec: Spec) -> float:
    found = _first_call(stage.wire, lambda: stage.project.push(spec), stage)
    wait_for(lambda: stage.replicas().of("chat", "Echo") == spec.replicas, 60, f"{spec.replicas} replicas")
    return found


def _rolled(stage: Stage, spec: Spec) -> float:
    found = _first_call(stage.wire, lambda: stage.project.push(spec), stage)
    stage.daemon.wait_settled("chat", spec.revision)
    return found


def _first_call(wire: Wire, push: object, stage: Stage) -> float:
    """Return seconds from the end of `git commit` to the first PUT or POST that the daemon sent to Ray."""
    assert callable(push)
    known = len(wire.writes)
    push()
    wait_for(lambda: len(wire.writes) > known, 30, "a call", interval=0.01, shows=lambda: stage.daemon.story("chat"))
    at, line = wire.writes[known]
    print(f"{at - stage.project.committed_at:.3f} s: {line}", flush=True)
    return at - stage.project.committed_at


def quantile(values: list[float], share: float) -> float:
    """Return the smallest value that at least this share of them does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _write(scales: list[float], rollouts: list[float]) -> None:
    everything = scales + rollouts
    rows = [
        [
            name,
            len(values),
            *(f"{value:.3f}" for value in (statistics.median(values), quantile(values, 0.95), max(values))),
        ]
        for name, values in (("another count", scales), ("another revision", rollouts), ("all", everything))
    ]
    how = (
        "One service on a real Ray cluster (head and three worker nodes on this machine), at rest before each commit. "
        "Time from the end of `git commit` to the first PUT or POST that the daemon sends to Ray's dashboard, seen by "
        "a TCP proxy in between: the scale call for another count, the upload of the code or the Serve document for "
        "another revision. Seconds."
    )
    goals = [["commit to first Ray API call, p95", "<= 1 s", f"{quantile(everything, 0.95):.3f} s"]]
    sections = [
        how,
        report.table(["commits that ask for", "number", "median", "p95", "longest"], rows),
        "## Figures to reach",
        report.table(["figure", "goal", "measured"], goals),
    ]
    report.write("pace", "From commit to action", sections)
