"""Clusters without direct ingress: Heliostat can be tried on them as they are."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from reconciler.embedded import EmbeddedCluster
from tests.e2e.daemon import free_port
from tests.e2e.load import executed_twice, sending
from tests.e2e.project import pause, weight
from tests.e2e.stage import Stage
from tests.ray_cluster import upload_echo

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def plain_stage() -> Iterator[Stage]:
    """Lend a stage on a cluster of its own, where requests go through Serve's proxies."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-e2e-"))
    with EmbeddedCluster(zones=("a", "b"), environment={"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}) as cluster:
        upload_echo(cluster.dashboard_url)
        stage = Stage(folder, cluster)
        # All nodes share this machine's ports: one proxy only.
        http = {"host": "0.0.0.0", "port": free_port()}
        stage.put({"proxy_location": "HeadOnly", "http_options": http, "applications": []})
        try:
            yield stage
        finally:
            stage.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_without_direct_ingress_rolls_out_through_the_proxies_of_serve(plain_stage: Stage) -> None:
    stage = plain_stage
    spec = stage.spec(steps=[weight(25), pause(2), weight(50), pause(2)])
    stage.deploy(spec, within=120)
    with sending(stage.load(rate=40)) as load, stage.watch() as watch:
        stage.deploy(replace(spec, revision="v2"), within=180)
    assert load.failures() == []
    assert executed_twice(stage.count_file) == []
    assert watch.peak("chat") <= 2 + 1


def test_a_service_whose_proxies_cannot_be_reached_is_not_called_healthy(plain_stage: Stage) -> None:
    stage, daemon = plain_stage, plain_stage.daemon
    stage.deploy(stage.spec(), within=120)
    (proxy,) = proxies(stage)
    os.kill(proxy, signal.SIGSTOP)
    try:
        status = daemon.wait("chat", 40, "the way to it is lost", health="Degraded", reason="Overcommitted")
        assert "does the gateway reach their port?" in status["message"]
        assert status["replicas"]["ready"] == 0
    finally:
        os.kill(proxy, signal.SIGCONT)
    daemon.wait_settled("chat", "v1", 60)


def proxies(stage: Stage) -> list[int]:
    """Return the processes of Serve's proxies."""
    url = f"{stage.cluster.dashboard_url}/api/v0/actors?limit=1000&detail=true"
    actors = httpx.get(url, timeout=30, trust_env=False).json()["data"]["result"]["result"]
    return [actor["pid"] for actor in actors if actor["class_name"] == "ProxyActor" and actor["state"] == "ALIVE"]
