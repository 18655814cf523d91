"""A secret reaches the replica that needs it, and nothing that the daemon writes, shows or sends elsewhere."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from reconciler.embedded import EmbeddedCluster
from tests.e2e.conftest import lent
from tests.e2e.daemon import COMMAND
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for
from tests.local_http import Answering, listening

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CANARY = "canary-a8d1-in-a-file"
ROTATED = "canary-77c0-after-rotation"
VARIABLE = "canary-31be-in-a-variable"


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Take traces as an OpenTelemetry collector does."""
    bodies: list[bytes] = []

    class Handler(Answering):
        def answer(self) -> None:
            bodies.append(self.body())
            self.say(200)

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}", bodies


def digest_at(stage: Stage, name: str) -> str:
    answer = stage.daemon.ask(f"/chat/digest?name={name}")
    return str(answer.json().get("sha256")) if answer.status_code == 200 else f"{answer.status_code}"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def told(stage: Stage) -> dict[str, bytes]:
    """Return everything that the daemon and its command line show, by where."""
    paths = ("/", "/fragment", "/metrics", "/api/v1/status", "/api/v1/services/chat", "/api/v1/routes", "/api/v1/nodes")
    paths += ("/api/v1/services/chat/history", "/api/v1/services/chat/events", "/api/v1/events?limit=1000")
    shown = {path: httpx.get(f"{stage.daemon.server}{path}", trust_env=False).content for path in paths}
    for verb in (["status"], ["status", "chat", "-o", "json"], ["events"], ["history", "chat"], ["nodes"]):
        done = subprocess.run(
            [COMMAND, *verb, "--server", stage.daemon.server], capture_output=True, timeout=60, check=False
        )
        shown[" ".join(verb)] = done.stdout + done.stderr
    shown["the log"] = stage.daemon.log.read_bytes()
    for file in stage.daemon.state.rglob("*"):
        if file.is_file():
            shown[str(file)] = file.read_bytes()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                shown[f"{process}/cmdline"] = (process / "cmdline").read_bytes()
            except OSError:
                continue
    return shown


def test_a_secret_reaches_its_replica_and_nothing_else(
    ray_cluster: EmbeddedCluster, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "openai"
    secret.write_text(CANARY)
    monkeypatch.setenv("SECRET_OF_CHAT", VARIABLE)
    flags = (f"--secret-folder={tmp_path}", "--secret-env-prefix=SECRET_OF_", "--git-interval=1s")
    with collector() as (url, traces), monkeypatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with lent(ray_cluster, request, flags=flags) as stage:
            secrets = {"KEY": {"file": str(secret)}, "PASSWORD": {"env": "SECRET_OF_CHAT"}}
            spec = stage.spec(replicas=1, secrets=secrets, steps=[])
            stage.deploy(spec)
            assert digest_at(stage, "KEY") == sha256(CANARY)
            assert digest_at(stage, "PASSWORD") == sha256(VARIABLE)

            before = stage.daemon.status("chat")["stable"]
            secret.write_text(ROTATED)  # a rollout without a commit
            wait_for(lambda: digest_at(stage, "KEY") == sha256(ROTATED), 60, "the new value", shows=stage.daemon.tail)
            wait_for(
                lambda: (
                    stage.daemon.status("chat")["stable"] not in (before, None)
                    and stage.daemon.status("chat")["candidate"] is None
                ),
                30,
                "it is stable",
                shows=stage.daemon.tail,
            )

            daemon = stage.daemon
            blabs = stage.spec("v2", replicas=1, secrets=secrets, steps=[], args={"tell_secrets": ["KEY", "PASSWORD"]})
            stage.project.push(blabs)
            wait_for(lambda: daemon.status("chat")["quarantined"], 90, "v2 is taken back", shows=stage.daemon.tail)
            history = told(stage)["/api/v1/services/chat/history"].decode()
            assert "cannot log in with ['********', '********']" in history, history

            stage.daemon.kill()
            stage.daemon.start()
            assert digest_at(stage, "KEY") == sha256(ROTATED)
            shown = told(stage)
            stage.daemon.stop()
            shown |= {f"trace {number}": body for number, body in enumerate(traces)}
    assert traces
    for value in (CANARY, ROTATED, VARIABLE):
        assert [place for place, content in shown.items() if value.encode() in content] == []
