"""Revisions that are healthy and worse: found by their requests, taken back with the numbers; good ones go through."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.load import sending
from tests.e2e.project import pause, weight
from tests.e2e.stage import Stage

pytestmark = pytest.mark.ray


def analysis(seconds: int) -> dict[str, Any]:
    """Return an `analysis` step."""
    return {"analysis": {"duration": f"{seconds}s"}}


def test_a_healthy_revision_that_fails_requests_is_rolled_back_and_a_good_one_is_promoted(stage: Stage) -> None:
    daemon = stage.daemon
    steps = [weight(50), analysis(5)]
    # A busy machine must not look like a slow revision here.
    asked = {"analysis": {"successRate": {}, "minRequests": 100}}
    stage.deploy(stage.spec(steps=steps, extra=asked))
    v1 = daemon.status("chat")["stable"]
    with sending(stage.load(rate=60)) as load:
        stage.project.push(stage.spec("v2", steps=steps, extra=asked, args={"fail_every": 6}))
        status = daemon.wait_condition("chat", "Quarantined", "True", 60)
        (found,) = [entry for entry in status["conditions"] if entry["type"] == "Quarantined"]
        assert found["reason"] == "AnalysisFailed"
        assert "requests failed" in found["message"]
        assert status["stable"] == v1
        assert status["weights"] == {v1: 100} or daemon.wait("chat", 20, "all back at v1", weights={v1: 100})
        bad = status["quarantined"][0]
        (rolled_back,) = [event for event in daemon.events("chat") if event["kind"] == "RolledBack"]
        assert "AnalysisFailed" in rolled_back["message"]
        assert daemon.history("chat")[0]["outcome"] == "rolled-back"
        assert "requests failed" in daemon.cli("history", "chat").stdout

        stage.project.push(stage.spec("v3", steps=steps, extra=asked))
        status = daemon.wait("chat", 60, "v3 is analysed", reason="Analysing")
        assert status["analysis"]["outcome"] in ("inconclusive", "passing")
        assert "analysis" in daemon.cli("status", "chat").stdout
        daemon.wait_settled("chat", "v3", 60)
    passed = [event["message"] for event in daemon.events("chat") if event["kind"] == "StepEntered"]
    assert any("0% of" in message for message in passed), passed
    failures = load.failures()
    assert {record.status for record in failures} == {500}, failures
    assert bad not in daemon.status("chat")["weights"]


@pytest.mark.slow
def test_a_revision_with_a_slower_tail_is_rolled_back(stage: Stage) -> None:
    daemon = stage.daemon
    steps = [weight(50), pause()]
    asked = {"analysis": {"latency": {"quantile": 95}, "minRequests": 100}}
    stage.deploy(stage.spec(steps=steps, extra=asked))
    with sending(stage.load(rate=60)):
        stage.project.push(stage.spec("v2", steps=steps, extra=asked, args={"slow_every": 6, "slow_seconds": 1.0}))
        status = daemon.wait_condition("chat", "Quarantined", "True", 90)
        (found,) = [entry for entry in status["conditions"] if entry["type"] == "Quarantined"]
        assert found["reason"] == "AnalysisFailed"
        assert "p95" in found["message"]
