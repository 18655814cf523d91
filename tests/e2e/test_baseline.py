"""A fresh baseline on real Ray: it starts with the candidate, answers beside it, is compared with it, and goes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.load import sending
from tests.e2e.project import pause, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FRESH: dict[str, Any] = {
    "replicas": 3,
    "steps": [weight(25), pause()],
    "rollout": {"maxSurge": 2},
    # Errors alone: a busy machine must not look like a slow revision here.
    "extra": {"analysis": {"successRate": {}, "minRequests": 50, "baseline": "fresh"}},
}


def cells(status: dict[str, Any]) -> dict[tuple[str, bool], dict[str, Any]]:
    """Return the cells by revision, and whether it is a baseline."""
    return {(cell["revision"], cell["baseline"]): cell for cell in status["cells"]}


def test_a_candidate_is_compared_with_stable_replicas_that_are_as_young(stage: Stage) -> None:
    daemon = stage.daemon
    stage.deploy(stage.spec(**FRESH))
    old = daemon.status("chat")["stable"]
    with sending(stage.load(rate=60)) as load:
        stage.project.push(stage.spec("v2", **FRESH))
        status = daemon.wait("chat", 120, "at 25%", health="Paused")
        new = status["candidate"]
        found = cells(status)
        assert set(found) == {(old, False), (old, True), (new, False)}
        assert found[old, True]["weight"] == found[new, False]["weight"] == 25
        assert found[old, True]["name"] in stage.serve()["applications"]
        assert status["weights"] == {old: 75, new: 25}

        def judged() -> bool:
            analysis = daemon.status("chat").get("analysis") or {}
            return analysis.get("outcome") == "passing"

        wait_for(judged, 60, "both have enough requests", shows=lambda: daemon.story("chat"))
        verdict = daemon.status("chat")["analysis"]["verdicts"][0]
        # As many requests on both sides: the other old replicas, with twice of them, are not in it.
        assert 0.5 < verdict["candidateSamples"] / verdict["stableSamples"] < 2

        daemon.act("chat", "promote")
        daemon.wait_settled("chat", "v2")
        stage.wait_only("chat", new)
    assert load.failures() == []
