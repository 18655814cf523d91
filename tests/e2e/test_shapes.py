"""Applications of other shapes, all moving at the same time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.e2e.load import sending
from tests.e2e.project import pause, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.ray

STEPS = [weight(50), pause(2)]


def test_autoscaled_paired_and_single_services_move_at_once_within_their_budgets(stage: Stage) -> None:
    daemon = stage.daemon
    autoscaling = {
        "min_replicas": 2,
        "max_replicas": 4,
        "target_ongoing_requests": 1000,
        "upscale_delay_s": 1,
        "downscale_delay_s": 600,
    }
    auto = stage.spec(name="auto", steps=STEPS, deployments=[{"name": "Echo", "autoscaling_config": autoscaling}])
    # Backend is not listed: it runs at its code's count, 2.
    pair = stage.spec(name="pair", steps=STEPS, replicas=1, args={"with_backend": True})
    single = stage.spec(name="single", steps=STEPS, replicas=1)
    stage.deploy(auto, pair, single)
    assert daemon.status("pair")["replicas"]["target"] == 3
    assert daemon.ask("/pair/backend?text=abc").json()["answer"] == "ABC"

    loads = [stage.load(route=f"/{name}", rate=40, prefix=name) for name in ("auto", "pair", "single")]
    with sending(loads[0]), sending(loads[1]), sending(loads[2]), stage.watch() as watch:
        stage.project.push(*(replace(spec, revision="v2") for spec in (auto, pair, single)))
        wait_for(
            lambda: all(daemon.status(spec.name)["candidate"] for spec in (auto, pair, single)),
            60,
            "all three are moving at the same time",
            shows=lambda: daemon.story("pair"),
        )
        for spec in (auto, pair, single):
            daemon.wait_settled(spec.name, "v2", 180)
    failures = sorted((record for load in loads for record in load.failures()), key=lambda record: record.start)
    assert failures == [], watch.around(failures)
    assert watch.peak("auto") <= 2 + 1
    assert watch.peak("pair", "Echo") <= 1 + 1
    # What the spec does not list starts at its code's count, 2, before anybody can tell it another one.
    assert watch.peak("pair", "Backend") <= 2 + 2
    assert watch.peak("single") <= 1 + 1
    assert daemon.ask("/pair/backend?text=abc").json() == {"revision": "v2", "answer": "ABC"}
    assert stage.replicas().of("auto", "Echo") == 2
    (name,) = stage.cells("auto")
    config = stage.serve()["applications"][name]["deployed_app_config"]["deployments"][0]["autoscaling_config"]
    assert (config["min_replicas"], config["max_replicas"]) == (2, 4), "autoscaling has its own bounds back"
