"""Weights on three real Ray nodes, from an origin with little bandwidth."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.embedded import EmbeddedCluster
from tests.loading.files import big, write_file
from tests.loading.servers import ROOT, RangeServer
from tests.loading.shape import Shape

pytestmark = pytest.mark.ray

SIZE = 64 << 20
RATE = 12e6
"""Bytes per second of the origin, for all connections together.

One node alone takes between five and six seconds: long against what a busy machine adds.
"""


def run_job(cluster: EmbeddedCluster, entrypoint: str) -> str:
    """Run a program on the cluster as a Ray job and return what it printed."""
    jobs = f"{cluster.dashboard_url}/api/jobs/"
    job = httpx.post(jobs, json={"entrypoint": entrypoint}, timeout=60).raise_for_status().json()["submission_id"]
    deadline = time.monotonic() + 120
    while (status := httpx.get(jobs + job, timeout=30).json())["status"] in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    logs = str(httpx.get(f"{jobs}{job}/logs", timeout=30).json()["logs"])
    assert status["status"] == "SUCCEEDED", logs
    return logs


def test_three_nodes_cost_the_origin_one_and_take_little_longer(ray_cluster: EmbeddedCluster, tmp_path: Path) -> None:
    for name, size in (("small", 1 << 20), ("alone", SIZE), ("together", SIZE)):
        write_file(tmp_path / name, big(size))
    with RangeServer(tmp_path, Shape(first_byte=0.03, total_bandwidth=RATE)) as origin:
        program = ROOT / "tests" / "loading" / "on_ray.py"
        urls = " ".join(map(origin.url, ("small", "alone", "together")))
        logs = run_job(ray_cluster, f"{sys.executable} {program} {urls} {tmp_path / 'caches'}")
        found: dict[str, Any] = json.loads(next(line for line in logs.splitlines() if line.startswith('{"alone"')))
        share = origin.counters().paths["/together"] / SIZE
        alone, slowest = (max(node["seconds"] for node in found[how]) for how in ("alone", "together"))
        print(f"alone {alone:.2f} s, the slowest of three {slowest:.2f} s, origin {share:.3f} of the file")
        assert len(found["together"]) == 3
        assert share <= 1.15
        assert slowest <= 1.5 * alone
