"""Changes of course: newer commits, ways back, standing still, leaving, and what others own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.e2e.load import sending
from tests.e2e.project import pause, policy, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for
from tests.ray_cluster import echo_application

pytestmark = pytest.mark.ray

BROKEN = "apiVersion: heliostat.dev/v1alpha1\nkind: Service\nmetadata: {name: chat}\nspec: {applicatoin: {}}\n"
HALF_WAY = [weight(50), pause()]


def test_a_newer_commit_takes_over_and_the_way_back_to_the_live_one_needs_no_canary(stage: Stage) -> None:
    daemon = stage.daemon
    stage.deploy(stage.spec("a", steps=HALF_WAY))
    a = daemon.status("chat")["stable"]
    with sending(stage.load(rate=60)) as load, stage.watch() as watch:
        stage.project.push(stage.spec("b", steps=HALF_WAY))
        b = daemon.wait("chat", 60, "b is at 50%", health="Paused")["candidate"]

        stage.project.push(stage.spec("c", steps=HALF_WAY))
        status = daemon.wait("chat", 90, "c is at 50%", health="Paused", weights={a: 50, _other(stage, a, b): 50})
        c = status["candidate"]
        assert status["quarantined"] == []
        assert daemon.history("chat")[0]["outcome"] == "superseded"

        before = stage.replicas().ids
        stage.project.push(stage.spec("a", steps=HALF_WAY))
        daemon.wait("chat", 60, "all back at a", weights={a: 100}, candidate=None)
        stage.wait_only("chat", a)
        after = stage.replicas().ids
        name = f"chat.{a}.-.-.0"
        assert list(after) == [(name, "Echo")]
        # The one that half of the traffic had left may have stopped; the other one never did.
        assert before[name, "Echo"] & after[name, "Echo"], "replicas of the live revision were replaced"
    assert load.failures() == [], watch.around(load.failures())
    assert watch.peak("chat") <= 2 + 1
    assert watch.jumps(needed=2) == []
    assert len({a, b, c}) == 3


@pytest.mark.slow
def test_the_way_back_to_a_revision_that_is_still_warm_needs_no_canary(stage: Stage) -> None:
    daemon, warm = stage.daemon, {"scaleDownDelay": "60s"}
    stage.deploy(stage.spec("a", steps=[], rollout=warm))
    a = daemon.status("chat")["stable"]
    with sending(stage.load(rate=60)) as load, stage.watch() as watch:
        stage.project.push(stage.spec("b", steps=[], rollout=warm))
        b = wait_for(
            lambda: (found := daemon.status("chat")["stable"]) != a and found,
            90,
            "b is promoted",
            shows=lambda: daemon.story("chat"),
        )
        stage.project.push(stage.spec("a", steps=HALF_WAY, rollout=warm))
        daemon.wait("chat", 60, "back at a", stable=a, candidate=None, weights={a: 100})
        assert f"chat.{a}.-.-.0" in stage.cells("chat"), "it was created anew"
    assert load.failures() == [], watch.around(load.failures())
    assert a != b


def _other(stage: Stage, *known: str) -> str:
    """Return the candidate once it is none of the known revisions."""
    return str(
        wait_for(
            lambda: (found := stage.daemon.status("chat")["candidate"]) and found not in known and found,
            60,
            "another candidate",
            shows=lambda: stage.daemon.story("chat"),
        )
    )


def test_scale_moves_replicas_only_and_suspend_freezes_everything(stage: Stage) -> None:
    daemon = stage.daemon
    spec = stage.spec(replicas=2)
    stage.deploy(spec)
    first = stage.replicas().ids
    (name,) = stage.cells("chat")
    with sending(stage.load(rate=60)) as load:
        stage.deploy(replace(spec, replicas=3))
        grown = stage.replicas().ids
        assert list(grown) == list(first)
        assert first[name, "Echo"] < grown[name, "Echo"]
        assert len(grown[name, "Echo"]) == 3

        stage.project.push(replace(spec, replicas=1))
        wait_for(lambda: stage.replicas().of("chat", "Echo") == 1, 60, "one replica is left")
        assert stage.replicas().ids[name, "Echo"] < grown[name, "Echo"]
        assert daemon.status("chat")["candidate"] is None

        stage.project.push(replace(spec, revision="v2", replicas=1, extra={"suspend": True}))
        daemon.wait("chat", 30, "suspended", health="Suspended", phase="Suspended", reason="Suspended")
        assert stage.cells("chat") == [name]
        assert stage.replicas().of("chat", "Echo") == 1
        stage.deploy(replace(spec, revision="v2", replicas=1))
    assert load.failures() == []
    kinds = [event["kind"] for event in daemon.events("chat")]
    assert kinds.count("RolloutStarted") == 2


def test_services_leave_only_when_pruning_is_allowed_and_nothing_of_others_is_touched(stage: Stage) -> None:
    daemon = stage.daemon
    foreign = echo_application("foreign", replicas=1, revision="theirs") | {"route_prefix": "/foreign"}
    stage.put({"proxy_location": "HeadOnly", "http_options": {"host": "0.0.0.0"}, "applications": [foreign]})
    wait_for(lambda: stage.serve()["applications"]["foreign"]["status"] == "RUNNING", 60, "the foreign one runs")
    theirs = stage.serve()["applications"]["foreign"]
    replicas = stage.replicas().ids["foreign", "Echo"]

    chat, search = stage.spec(), stage.spec(name="search", replicas=1)
    stage.deploy(chat, search)
    with sending(stage.load(rate=40)) as load:
        # A broken file holds its own service only.
        stage.project.push(replace(search, revision="v2"), others={"chat.yaml": BROKEN})
        daemon.wait_settled("search", "v2")
        assert daemon.revision_at("/chat") == "v1"
        errors = daemon.get("/api/v1/status")["errors"]
        assert any(error.startswith("chat.yaml:4:") for error in errors), errors

        stage.project.push(chat)
        daemon.wait("search", 30, "kept without leave to prune", reason="PruneDisabled")
        assert daemon.revision_at("/search") == "v2"

        stage.project.push(chat, cluster=policy(prune={"enabled": True, "maxFraction": "50%"}))
        stage.wait_gone("search", 90)
        wait_for(lambda: daemon.ask("/search/x").status_code == 404, 20, "its route is gone")
        wait_for(lambda: daemon.status("search") == {}, 20, "it is forgotten")
    assert load.failures() == []
    now = stage.serve()["applications"]["foreign"]
    assert now["deployed_app_config"] == theirs["deployed_app_config"]
    assert stage.replicas().ids["foreign", "Echo"] == replicas
