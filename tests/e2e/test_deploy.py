"""The first deployment of services, what users see of it, and the verbs that they use."""

from __future__ import annotations

import json

import pytest

from tests.e2e.load import sending
from tests.e2e.project import pause, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.ray


def test_a_first_deployment_goes_straight_to_all_requests_and_a_second_service_joins(stage: Stage) -> None:
    stage.deploy(stage.spec(replicas=2))
    status = stage.daemon.status("chat")
    assert status["weights"] == {status["stable"]: 100}
    assert status["replicas"]["ready"] == 2
    assert [event["kind"] for event in stage.daemon.events("chat")].count("Promoted") == 1

    pid = stage.daemon.haproxy()
    search = stage.spec("other", name="search", replicas=1, extra={"route": "/v1/search"})
    with sending(stage.load(rate=40)) as load:
        stage.deploy(stage.spec(replicas=2), search)
    assert load.failures() == []
    assert stage.daemon.revision_at("/chat") == "v1"
    assert stage.daemon.revision_at("/v1/search") == "other"
    for nobodys in ("/nobody", "/chatter", "/v1", "/search"):
        assert stage.daemon.ask(nobodys).status_code == 404
    assert (stage.daemon.haproxy(), stage.daemon.reloads()) == (pid, 0)
    status_is_the_documented_json(stage)


def status_is_the_documented_json(stage: Stage) -> None:
    """Compare what the API says of `search` with its documentation."""
    cluster = stage.daemon.get("/api/v1/status")
    assert {"cluster", "commit", "observedAt", "complete", "leader", "services"} <= cluster.keys()
    assert cluster["complete"] is True
    assert cluster["leader"] is True

    chat, service = cluster["services"]
    assert chat["name"] == "chat"
    revision = service["stable"]
    assert service["commit"].startswith("main@sha1:")
    expected = {
        "name": "search",
        "route": "/v1/search",
        "sync": "Synced",
        "health": "Healthy",
        "phase": "Steady",
        "candidate": None,
        "quarantined": [],
        "step": None,
        "weights": {revision: 100},
    }
    assert {key: service[key] for key in expected} == expected
    assert {"target": 1, "live": 1, "ready": 1, "serveSurplus": 0}.items() <= service["replicas"].items()
    (cell,) = service["cells"]
    assert cell == {
        "name": f"search.{revision}.-.-.0",
        "revision": revision,
        "zone": None,
        "market": None,
        "weight": 100,
        "status": cell["status"],
        "deployments": [{"name": "Echo", "target": 1, "ready": 1}],
        "baseline": False,
    }
    assert cell["status"] in ("RUNNING", "DEPLOYING")
    assert {"requests", "errors", "aborted", "unrouted", "p50", "p99"} == service["traffic"][revision].keys()
    assert wait_for(lambda: stage.daemon.status("search")["traffic"][revision]["requests"] >= 1, 10, "requests count")
    conditions = {entry["type"]: entry["status"] for entry in service["conditions"]}
    assert conditions["Ready"] == "True"
    assert conditions["Synced"] == "True"
    assert {"type", "status", "reason", "message", "lastTransitionTime"} == service["conditions"][0].keys()
    assert "text/html" in stage.daemon.page().headers["content-type"]


@pytest.mark.slow
def test_the_verbs_of_the_command_line_drive_a_rollout(stage: Stage) -> None:
    """Look, promote, pause, resume, abort, retry, rollback, wait: each does what it says, and says when it cannot."""
    daemon = stage.daemon
    steps = [weight(25), pause(), weight(50), pause()]
    stage.deploy(stage.spec(steps=steps))
    v1 = daemon.status("chat")["stable"]
    assert daemon.cli("promote", "chat").returncode == 1
    assert daemon.cli("status", "nobody").returncode == 1
    assert daemon.post("chat", "abort", token="wrong").status_code in (401, 403)

    with sending(stage.load(rate=40)) as load:
        stage.project.push(stage.spec("v2", steps=steps))
        assert daemon.cli("wait", "chat", "--for", "Paused", "--timeout", "60s").returncode == 0
        v2 = daemon.status("chat")["candidate"]
        assert daemon.status("chat")["weights"] == {v1: 75, v2: 25}

        assert daemon.cli("pause", "chat").returncode == 0
        daemon.wait("chat", 10, "paused by a person", reason="PausedByOperator")
        assert daemon.cli("resume", "chat").returncode == 0
        assert daemon.cli("promote", "chat").returncode == 0
        status = daemon.wait("chat", 60, "at 50%", weights={v1: 50, v2: 50})

        assert daemon.cli("abort", "chat").returncode == 0
        assert daemon.cli("wait", "chat", "--for", "Quarantined", "--timeout", "30s").returncode == 0
        status = daemon.wait("chat", 60, "all back at v1", weights={v1: 100}, candidate=None)
        assert status["quarantined"] == [v2]

        assert daemon.cli("retry", "chat").returncode == 0
        daemon.wait("chat", 90, "tried again, at 25%", candidate=v2, health="Paused")
        assert daemon.cli("promote", "--full", "chat").returncode == 0
        daemon.wait_settled("chat", "v2")
        assert daemon.cli("wait", "chat", "--for", "Synced", "--timeout", "5s").returncode == 0

        assert daemon.cli("rollback", "chat").returncode == 0
        daemon.wait("chat", 90, "v1 again", stable=v1, candidate=None)
    assert load.failures() == []
    assert daemon.revision_at("/chat") == "v1"

    assert daemon.cli("wait", "chat", "--for", "Paused", "--timeout", "1s").returncode == 3
    shown = json.loads(daemon.cli("status", "chat", "-o", "json").stdout)
    assert (shown.get("services") or [shown])[0]["stable"] == v1
    assert v1 in daemon.cli("status").stdout
    assert v2 in daemon.cli("history", "chat").stdout
    events = daemon.cli("events", "chat")
    assert events.returncode == 0
    assert "aborted" in events.stdout
    outcomes = [entry["outcome"] for entry in daemon.history("chat")]
    assert outcomes == ["promoted", "rolled-back", "promoted", "rolled-back", "deployed"]
