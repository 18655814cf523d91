"""The first deployment of services, and what users see of it."""

from __future__ import annotations

import pytest

from tests.e2e.stage import Stage

pytestmark = pytest.mark.ray


def test_a_first_deployment_goes_straight_to_all_requests_and_a_second_service_joins(stage: Stage) -> None:
    stage.deploy(stage.spec(replicas=2))
    status = stage.daemon.status("chat")
    assert status["weights"] == {status["stable"]: 100}
    assert status["replicas"]["ready"] == 2

    stage.deploy(stage.spec(replicas=2), stage.spec("other", name="search", replicas=1))
    assert stage.daemon.revision_at("/chat") == "v1"
    assert stage.daemon.revision_at("/search") == "other"
    assert stage.daemon.ask("/nobody").status_code == 404
    assert stage.daemon.ask("/chatter").status_code == 404
