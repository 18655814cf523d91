"""Revisions that are bad, each in its own way: taken back, explained in Ray's words, and not tried again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.e2e.load import sending
from tests.e2e.project import pause, policy, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.ray

SHORT_REQUESTS = {"maxRequestDuration": "5s"}
"""Serve holds on to a replica that never started for as long as a request may take."""

DEADLINE = {"progressDeadline": "40s"}
"""Serve says after 30 s what it waits for."""


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((entry for entry in status.get("conditions", ()) if entry["type"] == kind), {})


def test_every_kind_of_broken_revision_is_rolled_back_with_the_words_of_ray(stage: Stage) -> None:
    daemon = stage.daemon
    good = [stage.spec(name=name, replicas=1, extra=SHORT_REQUESTS) for name in ("build", "start", "stuck")]
    missing = {"missing.py": "import surely_not_installed\n"}
    stage.deploy(*good, others=missing)
    build, start, stuck = good
    too_large = [{"name": "Echo", "num_replicas": 1, "ray_actor_options": {"num_cpus": 64}}]
    with sending(stage.load(route="/stuck", rate=40)) as load:
        stage.project.push(
            replace(build, revision="v2", import_path="missing:build"),
            replace(start, revision="v2", args={"fail_start": "no such table"}),
            replace(stuck, revision="v2", deployments=too_large, rollout=DEADLINE),
            others=missing,
        )
        expected = {
            "build": ("BuildFailed", "surely_not_installed"),
            "start": ("StartFailed", "no such table"),
            "stuck": ("ProgressDeadlineExceeded", "64"),
        }
        for name, (reason, words) in expected.items():
            status = daemon.wait_condition(name, "Quarantined", "True", 150)
            assert condition(status, "Quarantined")["reason"] == reason
            assert words in condition(status, "Quarantined")["message"]
            assert status["weights"] == {status["stable"]: 100}
            assert daemon.revision_at(f"/{name}") == "v1"
            stage.wait_only(name, status["stable"])
    assert load.failures() == []

    # Quarantined is quarantined: an unrelated commit revives none of them, a fixed one goes through.
    cells = {name: stage.cells(name) for name in expected}
    fixed = replace(build, revision="v3")
    stage.project.push(
        fixed,
        replace(start, revision="v2", args={"fail_start": "no such table"}),
        replace(stuck, revision="v2", deployments=too_large, rollout=DEADLINE),
        others=missing,
        cluster=policy(budget={"maxServicesMoving": 4}),
    )
    daemon.wait_settled("build", "v3")
    assert {name: stage.cells(name) for name in expected if name != "build"} == {
        name: found for name, found in cells.items() if name != "build"
    }


@pytest.mark.slow
def test_a_revision_that_falls_sick_or_keeps_crashing_is_rolled_back_and_retry_works(stage: Stage) -> None:
    daemon, sickness = stage.daemon, stage.folder / "sick"
    quick_checks = [{"name": "Echo", "num_replicas": 2, "health_check_period_s": 1, "health_check_timeout_s": 2}]
    sick = {"steps": [weight(50), pause()], "deployments": quick_checks}
    stage.deploy(stage.spec(name="sick", **sick), stage.spec(name="crash", **sick))
    with sending(stage.load(route="/sick", rate=40)) as load:
        stage.project.push(
            stage.spec("v2", name="sick", args={"sick_file": str(sickness)}, **sick),
            stage.spec("v2", name="crash", **sick),
        )
        for name in ("sick", "crash"):
            daemon.wait(name, 90, "at 50%", health="Paused")
        bad = daemon.status("sick")["candidate"]

        sickness.touch()
        status = daemon.wait("sick", 60, "rolled back", quarantined=[bad], candidate=None)
        assert condition(status, "Quarantined")["reason"] in ("HealthCheckFailed", "CrashLoop")

        crashing = daemon.status("crash")["candidate"]
        wait_for(
            lambda: _crashed(stage, crashing) and daemon.status("crash")["quarantined"] == [crashing],
            60,
            "crash is rolled back",
            shows=lambda: daemon.story("crash"),
        )
        # Serve calls a deployment unhealthy whose replicas exit, until the next ones run.
        assert condition(daemon.status("crash"), "Quarantined")["reason"] in ("CrashLoop", "HealthCheckFailed")

        sickness.unlink()
        stage.wait_only("sick", daemon.status("sick")["stable"])
        daemon.act("sick", "retry")
        daemon.wait("sick", 90, "tried again", candidate=bad, health="Paused", quarantined=[])
        daemon.act("sick", "promote")
        daemon.wait_settled("sick", "v2")
    # A replica that Serve kills for its sickness takes its requests with it; the gateway may not repeat POSTs.
    assert [record for record in load.failures() if record.kind == "get"] == []


def _crashed(stage: Stage, revision: str) -> bool:
    """Make every replica of the revision exit, past the gateway; return true, for chaining."""
    for group in stage.serve().get("target_groups", ()):
        if revision in group["app_name"]:
            for target in group["targets"]:
                url = f"http://{target['ip']}:{target['port']}{group['route_prefix']}/crash"
                try:
                    httpx.get(url, timeout=5, trust_env=False)
                except httpx.TransportError:
                    continue
    return True
