"""Everything around the daemon fails, and the daemon itself: traffic goes on, and so does the rollout."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack

import httpx
import pytest

from reconciler.embedded import EmbeddedCluster
from tests.contract.gateway_replicas import free_port
from tests.e2e.conftest import lent
from tests.e2e.load import executed_twice, sending
from tests.e2e.project import pause, weight
from tests.e2e.stage import Stage
from tests.e2e.tcp_proxy import Mode
from tests.e2e.waiting import wait_for
from tests.ray_cluster import DRAIN

pytestmark = pytest.mark.ray

STEPS = [weight(25), pause(1), weight(50), pause(1)]
SEED = 20_261_123


def test_a_rollout_survives_a_daemon_killed_at_arbitrary_moments(stage: Stage) -> None:
    daemon, dice = stage.daemon, random.Random(SEED)
    stage.deploy(stage.spec(steps=STEPS))
    with sending(stage.load(rate=60)) as load, stage.watch() as watch:
        haproxy = daemon.haproxy()
        stage.project.push(stage.spec("v2", steps=STEPS))
        for _ in range(3):
            moment = time.monotonic() + dice.uniform(0.2, 4)
            wait_for(lambda moment=moment: time.monotonic() >= moment, 5, "the next moment", interval=0.01)
            daemon.kill()
            daemon.start(ready=dice.random() < 0.5)
        daemon.wait_settled("chat", "v2", 180)
        assert daemon.haproxy() == haproxy, "HAProxy outlives the daemon"
    assert load.failures() == [], watch.around(load.failures())
    assert executed_twice(stage.count_file) == []
    assert watch.jumps(needed=2) == []
    assert watch.peak("chat") <= 2 + 1
    assert daemon.reloads() == 0


@pytest.mark.slow
def test_a_five_step_rollout_survives_many_kills_at_random_moments(stage: Stage) -> None:
    daemon, dice = stage.daemon, random.Random(SEED + 1)
    steps = [step for percent in (10, 25, 50, 75, 90) for step in (weight(percent), pause(1))]
    stage.deploy(stage.spec(replicas=3, steps=steps))
    kills = 0
    with sending(stage.load(rate=60)) as load, stage.watch() as watch:
        haproxy = daemon.haproxy()
        stage.project.push(stage.spec("v2", replicas=3, steps=steps))
        while kills < 10:
            moment = time.monotonic() + dice.uniform(0.05, 6)
            wait_for(lambda moment=moment: time.monotonic() >= moment, 10, "the next moment", interval=0.01)
            daemon.kill()
            kills += 1
            daemon.start(ready=dice.random() < 0.7)
        daemon.wait_settled("chat", "v2", 300)
        assert daemon.haproxy() == haproxy
    assert load.failures() == [], watch.around(load.failures())
    assert executed_twice(stage.count_file) == []
    assert watch.jumps(needed=3) == []
    assert watch.peak("chat") <= 3 + 1
    assert [name.split(".")[4] for name in stage.cells("chat")] == ["0"], "nothing was created twice"
    kinds = [event["kind"] for event in daemon.events("chat")]
    assert (kinds.count("RolloutStarted"), kinds.count("Promoted"), kinds.count("RolledBack")) == (2, 2, 0)


@pytest.mark.slow
def test_a_head_that_comes_back_empty_is_filled_again_and_the_rollout_goes_on(request: pytest.FixtureRequest) -> None:
    """Another head at the same address knows no application, no package, and has never started Serve."""
    port, steps = free_port(), [weight(50), pause()]
    with ExitStack() as stack:
        first = EmbeddedCluster(zones=("a",), cpus_per_node=4.0, drain=DRAIN, dashboard_port=port)
        stack.callback(first.stop)
        first.start()
        stage = stack.enter_context(lent(first, request))
        daemon = stage.daemon
        stage.deploy(stage.spec(steps=steps))
        stage.project.push(stage.spec("v2", steps=steps))
        before = daemon.wait("chat", 60, "v2 is at 50%", health="Paused")
        cells = stage.cells("chat")
        assert len(cells) == 2

        first.stop()
        blind = daemon.wait("chat", 60, "blind", reason="RayUnreachable")
        assert (blind["weights"], blind["quarantined"]) == (before["weights"], [])
        stack.enter_context(EmbeddedCluster(zones=("a",), cpus_per_node=4.0, drain=DRAIN, dashboard_port=port))
        back = daemon.wait("chat", 180, "both are back", health="Paused", weights=before["weights"])
        assert (back["candidate"], back["quarantined"], stage.cells("chat")) == (before["candidate"], [], cells)
        with sending(stage.load(rate=40)) as load:
            daemon.act("chat", "promote")
            daemon.wait_settled("chat", "v2", 120)
        assert load.failures() == []
        kinds = [event["kind"] for event in daemon.events("chat")]
        assert (kinds.count("RolloutStarted"), kinds.count("CellRestored"), kinds.count("RolledBack")) == (2, 2, 0)


def test_what_somebody_else_changed_or_removed_is_told_and_put_right(stage: Stage) -> None:
    stage.deploy(stage.spec())
    (name,) = stage.cells("chat")
    path = f"/api/v1/applications/{name}/deployments/Echo/scale"
    answer = httpx.post(stage.cluster.dashboard_url + path, json={"target_num_replicas": 1}, timeout=10)
    assert answer.status_code == 200
    wait_for(lambda: _told(stage), 20, "told")
    # The one that somebody stopped holds its place while it drains.
    wait_for(lambda: stage.replicas().of("chat", "Echo") == 2, 60, "two replicas again, and none on its way out")
    stage.daemon.wait_settled("chat", "v1", 60)
    assert _told(stage) == [f"somebody else changed it: num_replicas of Echo of {name} is 1, not 2; it is put right"]

    stage.put({"applications": []})
    wait_for(lambda: not any(stage.replicas().live.values()), 30, "everything is gone", interval=0.05)
    stage.daemon.wait_settled("chat", "v1", 90)
    assert stage.cells("chat") == [name]


def _told(stage: Stage) -> list[str]:
    return [event["message"] for event in stage.daemon.events("chat") if event["kind"] == "Drifted"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG])
def test_a_dashboard_that_is_away_holds_a_rollout_and_rolls_nothing_back(far_stage: Stage, mode: Mode) -> None:
    stage, daemon = far_stage, far_stage.daemon
    stage.deploy(stage.spec(steps=STEPS))
    with sending(stage.load(rate=60)) as load, stage.watch() as watch:
        stage.project.push(stage.spec("v2", steps=STEPS, rollout={"progressDeadline": "20s"}))
        wait_for(lambda: daemon.status("chat")["candidate"], 30, "the rollout has begun")
        stage.wire.mode = mode
        since = daemon.wait("chat", 45, "blind", reason="RayUnreachable")
        assert since["health"] == "Unknown"
        weights, cells = since["weights"], stage.cells("chat")
        blind_until = time.monotonic() + 22
        wait_for(lambda: time.monotonic() > blind_until, 40, "longer than the progress deadline")
        status = daemon.status("chat")
        assert (status["weights"], stage.cells("chat")) == (weights, cells)
        assert status["quarantined"] == []
        stage.wire.mode = Mode.PASS
        daemon.wait_settled("chat", "v2", 120)
    assert load.failures() == [], watch.around(load.failures())
    assert watch.jumps(needed=2) == []
    assert daemon.status("chat")["quarantined"] == []
