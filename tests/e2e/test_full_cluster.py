"""Nodes without room for the surge, for real: blocked with numbers, and on again when there is room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.e2e.load import executed_twice, sending
from tests.e2e.project import Spec, weight
from tests.e2e.stage import Stage

pytestmark = pytest.mark.ray

GREEDY = {"name": "Echo", "num_replicas": 3, "ray_actor_options": {"num_cpus": 3}}
"""One fits on each of the cluster's three nodes of four CPUs."""


def _blocked(stage: Stage) -> tuple[Spec, dict[str, Any]]:
    """Fill the cluster, and push a revision that finds no room."""
    spec = stage.spec(deployments=[GREEDY], steps=[weight(50)])
    stage.deploy(spec)
    stage.project.push(replace(spec, revision="v2"))
    return spec, stage.daemon.wait("chat", 90, "blocked", phase="Blocked", reason="InsufficientResources")


@pytest.mark.slow
def test_a_full_cluster_blocks_with_numbers_until_old_replicas_may_stop_first(stage: Stage) -> None:
    spec, status = _blocked(stage)
    assert "1 replica waits for room; the fittest of 3 node(s) has 1 CPU of 3 CPU free" in status["message"]
    assert status["weights"][status["stable"]] == 100
    with sending(stage.load(rate=40)) as load, stage.watch() as watch:
        stage.project.push(replace(spec, revision="v2", rollout={"maxUnavailable": 1}))
        stage.daemon.wait_settled("chat", "v2", 180)
    assert load.failures() == [], watch.around(load.failures())
    assert executed_twice(stage.count_file) == []
    assert "SurgeLimited" in [event["kind"] for event in stage.daemon.events("chat")]


@pytest.mark.slow
def test_a_blocked_rollout_goes_on_when_a_node_joins(stage: Stage) -> None:
    _blocked(stage)
    node = stage.cluster.add_node("a")
    try:
        stage.daemon.wait_settled("chat", "v2", 180)
    finally:
        stage.cluster.kill_node(node.ip)
