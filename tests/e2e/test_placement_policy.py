"""A placement policy of another package on real raylets: its wish moves replicas, and no request notices."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.embedded import EmbeddedCluster
from tests.contract.ramp_package import install
from tests.e2e.conftest import lent
from tests.e2e.load import sending
from tests.e2e.project import Spec, pause, weight
from tests.e2e.stage import Stage
from tests.e2e.test_zones import per_zone
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PRICES = {"a": "1", "b": "4", "c": "20"}
PRICE = "example.com/price-per-hour"
ECHO = {"name": "Echo", "num_replicas": 5, "ray_actor_options": {"num_cpus": 0.1}}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Lend a stage on nodes that have prices, with a daemon that has the package beside it."""
    site = tmp_path / "site"
    install(site, tmp_path / "ramp")
    monkeypatch.setenv("PYTHONPATH", str(site))
    with EmbeddedCluster(zones=(), cpus_per_node=2.0, drain=timedelta(seconds=3)) as cluster:
        for zone, price in PRICES.items():
            cluster.add_node(zone, labels={PRICE: price})
        with lent(cluster, request, flags=("--policy=placement.thrifty",)) as made:
            yield made


def chat(stage: Stage, revision: str = "v1", **placement: Any) -> Spec:
    return stage.spec(
        revision, deployments=[ECHO], steps=[weight(40), pause(1)], extra={"placement": {"zones": {}, **placement}}
    )


def settled(stage: Stage, **wanted: int) -> None:
    wait_for(
        lambda: per_zone(stage) == wanted and stage.daemon.status("chat")["reason"] == "Steady",
        120,
        f"{wanted} and steady",
        shows=lambda: f"{per_zone(stage)}\n{stage.daemon.story('chat')}\n{stage.daemon.tail(20)}",
        interval=0.5,
    )


def test_a_wish_moves_replicas_to_cheap_zones_and_back_without_a_failed_request(stage: Stage) -> None:
    daemon = stage.daemon
    stage.deploy(chat(stage))
    settled(stage, a=2, b=2, c=1)
    with sending(stage.load(rate=50)) as load, stage.watch() as watch:
        # A zone at 20 is too dear for any; one at 4 is to have a quarter of what one at 1 has.
        stage.project.push(chat(stage, policy="thrifty"))
        settled(stage, a=4, b=1)
        (event,) = (event for event in daemon.get("/api/v1/events")["events"] if event["kind"] == "PlacementWished")
        assert "policy thrifty wishes zones a 100, b 25, c 0" in event["message"]
        assert "policy thrifty avoids it" in daemon.cli("status", "chat").stdout
        stage.project.push(chat(stage, "v2", policy="thrifty"))
        daemon.wait_settled("chat", "v2", 180)
        settled(stage, a=4, b=1)
        stage.project.push(chat(stage, "v2"))
        settled(stage, a=2, b=2, c=1)
    assert load.failures() == [], watch.around(load.failures())
    assert watch.peak("chat") <= 5 + 1
