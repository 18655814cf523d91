"""From a webhook about a push to the first call that changes something in Ray."""

from __future__ import annotations

import hashlib
import hmac
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import httpx

from reconciler.embedded import EmbeddedCluster
from tests.bench import report
from tests.bench.pace import quantile
from tests.e2e.stage import Stage
from tests.e2e.tcp_proxy import wire_to
from tests.e2e.waiting import wait_for

PUSHES = 30
SECRET = "a-secret-of-the-benchmark-0123"


def run() -> None:
    """Measure and write docs/benchmarks/webhook.md."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-bench-"))
    secret = folder / "secret"
    secret.write_text(SECRET)
    # A repository behind a URL that is asked once an hour: only the webhook can tell.
    flags = (
        f"--repo=file://{folder / 'project'}",
        "--git-interval=1h",
        f"--webhook-github-secret-file={secret}",
    )
    try:
        with EmbeddedCluster(cpus_per_node=4.0) as cluster, wire_to(cluster.dashboard_url) as wire:
            stage = Stage(folder, cluster, wire=wire, flags=flags)
            try:
                stage.deploy(stage.spec(steps=[]))
                found = [_pushed(stage, number) for number in range(1, PUSHES + 1)]
            finally:
                stage.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _write(found)


def _pushed(stage: Stage, number: int) -> float:
    """Return seconds from the sending of the webhook to the first PUT or POST that the daemon sent to Ray."""
    known = len(stage.wire.writes)
    spec = replace(stage.spec(steps=[]), replicas=2 + number % 2)
    stage.project.push(spec)
    body = b'{"ref": "refs/heads/main"}'
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-Hub-Signature-256": f"sha256={digest}",
    }
    begun = time.time()
    answer = httpx.post(f"{stage.daemon.server}/webhooks/github", content=body, headers=headers, trust_env=False)
    assert answer.status_code == 202, answer.text
    wait_for(lambda: len(stage.wire.writes) > known, 30, "a call", interval=0.01, shows=stage.daemon.tail)
    at, line = stage.wire.writes[known]
    print(f"{at - begun:.3f} s: {line}", flush=True)
    wait_for(lambda: stage.replicas().of("chat", "Echo") == spec.replicas, 60, f"{spec.replicas} replicas")
    return at - begun


def _write(found: list[float]) -> None:
    middle, p95, longest = statistics.median(found), quantile(found, 0.95), max(found)
    how = (
        "One service on a real Ray cluster (head and three worker nodes on this machine). The repository is behind a "
        "`file://` URL and is asked once an hour, so that only the webhook tells of a push. Time from the sending of "
        "the webhook to the first POST that the daemon sends to Ray's dashboard, seen by a TCP proxy in between. "
        "Seconds."
    )
    row = [len(found), *(f"{value:.3f}" for value in (middle, p95, longest))]
    goals = [["webhook to first Ray API call, p95", "<= 2 s", f"{p95:.3f} s"]]
    sections = [
        how,
        report.table(["pushes", "median", "p95", "longest"], [row]),
        "## Figures to reach",
        report.table(["figure", "goal", "measured"], goals),
    ]
    report.write("webhook", "From webhook to action", sections)
