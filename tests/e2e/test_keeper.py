"""The daemon is gone, and stays away: traffic follows what Serve does meanwhile."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.e2e.load import sending
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.ray


def _running(stage: Stage) -> dict[str, int]:
    """Return the processes of the replicas that run, by id."""
    (cell,) = stage.cells("chat")
    replicas: list[dict[str, Any]] = stage.serve()["applications"][cell]["deployments"]["Echo"]["replicas"]
    return {one["replica_id"]: one["pid"] for one in replicas if one["state"] == "RUNNING"}


def _replace_all(stage: Stage) -> None:
    """Kill each replica's process, one after the other; Serve starts new ones at other ports."""
    for replica, pid in _running(stage).items():
        os.kill(pid, signal.SIGKILL)
        wait_for(
            lambda replica=replica: replica not in _running(stage) and len(_running(stage)) == 2,
            90,
            "Serve has replaced a replica",
            shows=lambda: _running(stage),
        )


def test_replicas_that_serve_replaces_get_requests_while_no_daemon_runs(stage: Stage) -> None:
    daemon = stage.daemon
    stage.deploy(stage.spec(replicas=2))
    haproxy, first = daemon.haproxy(), _running(stage)
    daemon.kill()
    _replace_all(stage)
    assert not first.keys() & _running(stage).keys()
    wait_for(lambda: daemon.ask("/chat/").status_code == 200, 20, "new replicas answer", shows=daemon.tail)
    with sending(stage.load(rate=60)) as load:
        wait_for(lambda: len(load.records()) > 120, 20, "two seconds of requests")
        assert daemon.haproxy() == haproxy, "HAProxy is the one that the daemon had"
        assert haproxy is not None
        os.kill(haproxy, signal.SIGKILL)
        wait_for(lambda: daemon.haproxy() not in (None, haproxy), 10, "another HAProxy serves")
        count = len(load.records())
        wait_for(lambda: len(load.records()) > count + 120, 20, "two seconds of requests")
        survivor = daemon.haproxy()
        daemon.start()
        assert daemon.haproxy() == survivor, "the daemon takes over what its keeper kept"
        daemon.wait("chat", 60, "healthy", health="Healthy", phase="Steady")
    cut = [record for record in load.failures() if record.status == 503]
    assert cut == [], "a request found no replica"
    assert len(load.failures()) <= 5, "only what was in flight at the kill of HAProxy may fail"
