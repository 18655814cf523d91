"""People at work on a rollout, and clients that notice which version they are on."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from tests.e2e.load import sending
from tests.e2e.project import pause, weight
from tests.e2e.stage import Stage

pytestmark = pytest.mark.ray

TESTERS = {"setHeaderRoute": {"match": [{"headerName": "X-Canary", "headerValue": {"exact": "yes"}}]}}


def seen_by(client: httpx.Client, stage: Stage, **headers: str) -> str:
    """Return the revision that answers a client."""
    answer = client.get(f"{stage.daemon.gateway}/chat/who", headers=headers)
    answer.raise_for_status()
    return str(answer.json()["revision"])


def test_testers_then_clients_that_stay_then_a_person_who_changes_their_mind(stage: Stage) -> None:
    daemon = stage.daemon
    steps = [TESTERS, pause(), weight(50), pause()]
    rollout = {"sticky": {"cookie": "chat-version"}}
    stage.deploy(stage.spec(steps=steps, rollout=rollout))
    v1 = daemon.status("chat")["stable"]
    refused = daemon.cli("abort", "chat", "--why", "habit")
    assert (refused.returncode, "nothing is changed" in refused.stderr) == (1, True)
    assert daemon.post("chat", "promote").status_code == 409
    clients = [httpx.Client(trust_env=False) for _ in range(12)]

    with sending(stage.load(rate=40)) as load:
        stage.project.push(stage.spec("v2", steps=steps, rollout=rollout))
        status = daemon.wait("chat", 60, "the testers' turn", reason="Pausing")
        v2 = status["candidate"]
        assert status["weights"] == {v1: 100}
        with httpx.Client(trust_env=False) as tester:
            assert [seen_by(tester, stage, **{"X-Canary": value}) for value in ("yes", "no", "yes")] == [
                "v2",
                "v1",
                "v2",
            ]
        assert {seen_by(client, stage) for client in clients} == {"v1"}
        assert all(client.cookies["chat-version"] for client in clients)

        assert daemon.cli("promote", "chat", "--by", "ann", "--why", "testers agree").returncode == 0
        status = daemon.wait("chat", 60, "half of it", weights={v1: 50, v2: 50}, reason="Pausing")
        assert status["step"]["index"] == 3
        first = [seen_by(client, stage) for client in clients]
        for _ in range(5):
            assert [seen_by(client, stage) for client in clients] == first
        assert Counter(first).keys() == {"v1", "v2"}

        assert daemon.cli("pause", "chat", "--by", "bob", "--why", "lunch").returncode == 0
        daemon.wait("chat", 10, "paused by a person", reason="PausedByOperator")
        assert daemon.cli("promote", "chat").returncode == 1
        assert daemon.cli("resume", "chat").returncode == 0
        daemon.wait("chat", 10, "pausing by itself", reason="Pausing")

        assert daemon.cli("abort", "chat", "--by", "ann", "--why", "too slow").returncode == 0
        status = daemon.wait("chat", 60, "all back at v1", weights={v1: 100}, candidate=None)
        assert status["quarantined"] == [v2]
        assert {seen_by(client, stage) for client in clients} == {"v1"}
    assert load.failures() == []
    daemon.wait("chat", 60, "nothing on its way", phase="Blocked")
    for client in clients:
        seen_by(client, stage)
        assert "chat-version" not in client.cookies
        client.close()
    rolled_back, deployed = daemon.history("chat")
    assert (rolled_back["outcome"], deployed["outcome"]) == ("rolled-back", "deployed")
    acts = [act["text"] for act in rolled_back["acts"]]
    assert acts[0] == "promote by ann: testers agree"
    assert acts[1] == "pause by bob: lunch"
    assert acts[2].startswith("resume by ")
    assert acts[3:] == ["abort by ann: too slow"]
    assert daemon.reloads() == 0
