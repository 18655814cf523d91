"""Clusters without direct ingress: Heliostat can be tried on them as they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
