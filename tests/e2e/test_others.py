"""A rollout that asks others, on real Ray: a gate over HTTP, and a real Prometheus whose numbers turn bad."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from reconciler.embedded import EmbeddedCluster
from tests.e2e.conftest import lent
from tests.e2e.load import sending
from tests.e2e.project import pause, weight
from tests.e2e.waiting import wait_for
from tests.local_http import Answering, listening
from tests.prometheus_server import require_prometheus, running_prometheus

pytestmark = pytest.mark.ray


@dataclass(kw_only=True)
class GateServer:
    """What it answers, and what it was asked: path, idempotency key and body."""

    port: int = 0
    status: int = 403
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def keys(self, path: str) -> list[str]:
        return [key for asked, key, _ in self.asked if asked == path]


@contextmanager
def gate_server() -> Iterator[GateServer]:
    made = GateServer()

    class Handler(Answering):
        def answer(self) -> None:
            made.asked.append((self.path, self.headers["Idempotency-Key"], json.loads(self.body())))
            self.say(made.status, b'{"message": "the change calendar is closed"}' if made.status >= 400 else b"{}")

    with listening(Handler) as made.port:
        yield made


def test_a_gate_holds_a_rollout_and_bad_numbers_take_it_back(
    ray_cluster: EmbeddedCluster, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    require_prometheus()
    with running_prometheus(tmp_path / "prometheus") as prometheus, gate_server() as gate:
        prometheus.exporter.series = {'error_share{service="chat"}': 0.01}
        flags = (f"--prometheus={prometheus.url}", f"--allow-host=127.0.0.1:{gate.port}")
        hook = {"url": f"http://127.0.0.1:{gate.port}", "timeout": "2s", "interval": "1s"}
        gates = [
            {**hook, "name": "calendar", "at": "beforeStep", "kind": "confirm", "url": f"{hook['url']}/calendar"},
            {**hook, "name": "log", "at": "afterRollback", "kind": "notify", "url": f"{hook['url']}/log"},
        ]
        shares = {"name": "shares", "query": 'error_share{service="$service"}', "max": 0.05, "failureLimit": 1}
        fields: dict[str, Any] = {
            "replicas": 1,
            "steps": [weight(50), pause()],
            "rollout": {"gates": gates},
            "extra": {"analysis": {"metrics": [{**shares, "interval": "1s"}]}},
        }
        with lent(ray_cluster, request, flags=flags) as stage:
            stage.deploy(stage.spec(**fields))
            daemon = stage.daemon
            with sending(stage.load(route="/chat", rate=20)) as load:
                stage.project.push(stage.spec("v2", **fields))
                wait_for(lambda: daemon.status("chat")["reason"] == "GateRefused", 60, "refused", shows=daemon.tail)
                held = daemon.status("chat")
                assert "the change calendar is closed" in held["message"]
                assert held["weights"] == {held["stable"]: 100}
                wait_for(lambda: len(gate.keys("/calendar")) >= 3, 20, "asked again", shows=daemon.tail)
                assert len(set(gate.keys("/calendar"))) == len(gate.keys("/calendar"))

                gate.status = 204
                wait_for(lambda: len(daemon.status("chat")["weights"]) == 2, 30, "50%", shows=daemon.tail)
                wait_for(lambda: daemon.status("chat")["reason"] == "Pausing", 30, "pausing", shows=daemon.tail)
                asked = len(gate.keys("/calendar"))

                prometheus.exporter.series = {'error_share{service="chat"}': 0.4}
                taken = daemon.wait_condition("chat", "Quarantined", "True", 30)
                (found,) = [entry for entry in taken["conditions"] if entry["type"] == "Quarantined"]
                assert found["reason"] == "AnalysisFailed"
                assert (
                    "values are not at most 0.05 (the last is 0.4, the worst 0.4; failureLimit 1)" in found["message"]
                )
                wait_for(lambda: gate.keys("/log"), 20, "told of the rollback", shows=daemon.tail)
                wait_for(lambda: daemon.revision_at("/chat") == "v1", 20, "v1 serves", shows=daemon.tail)
            assert load.failures() == []
            assert len(gate.keys("/calendar")) == asked
            (told,) = [body for path, _, body in gate.asked if path == "/log"]
            assert told["rollback"]["reason"] == "AnalysisFailed"
            assert told["revision"] == held["candidate"]
