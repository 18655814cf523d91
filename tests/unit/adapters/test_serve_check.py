"""What is said of a cluster before Heliostat acts on it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from reconciler.adapters.ray_rest import RayRest
from reconciler.adapters.serve import RayServe
from reconciler.adapters.serve_check import concerns_of
from reconciler.adapters.serve_details import parse_details
from reconciler.errors import Retry
from specs.observed import Node
from tests.sim.fake_dashboard import FakeDashboard

APPLICATION = {"name": "x", "status": "RUNNING", "source": "declarative", "deployments": {}}


def node(ip: str = "10.0.0.1", **labels: str) -> Node:
    return Node(id=ip, ip=ip, is_alive=True, is_head=False, is_draining=False, labels=labels)


def subjects(
    *nodes: Node, version: str = "2.60.0", head: str = "ray-head", applications: bool = False, **details: Any
) -> list[tuple[str, bool]]:
    document = {"controller_info": {"a": 1}, "applications": {"x": APPLICATION} if applications else {}, **details}
    found = concerns_of(version, parse_details(document), nodes or (node(),), head)
    assert all(concern.text and concern.mend for concern in found)
    return [(concern.subject, concern.is_fatal) for concern in found]


def test_a_good_cluster_gives_no_concern() -> None:
    assert subjects(http_options={"host": "0.0.0.0", "request_timeout_s": None}, proxy_location="EveryNode") == []


@pytest.mark.parametrize(("version", "is_fine"), [("2.9.3", False), ("2.59.1", False), ("2.60.0", True), ("3.0", True)])
def test_older_versions_are_refused(version: str, is_fine: bool) -> None:
    assert subjects(version=version) == ([] if is_fine else [("ray version", True)])


def test_a_rayservices_cluster_is_refused() -> None:
    labels = {"ray.io/originated-from-crd": "RayService"}
    assert subjects(node(**labels)) == [("rayservice", True)]
    assert subjects(head="chat-raycluster-x7k2p-head-abcde", applications=True) == [("rayservice", True)]
    # Named like it, but nobody declares applications: that may be a RayJob.
    assert subjects(head="chat-raycluster-x7k2p-head-abcde") == [("rayservice", False)]
    assert subjects(head="raycluster-kuberay-head-abcde", applications=True) == []


def test_replicas_that_other_hosts_cannot_reach_are_told() -> None:
    assert subjects(http_options={"host": "127.0.0.1"}) == [("http host", False)]
    assert subjects(node("127.0.0.11"), http_options={"host": "127.0.0.1"}) == []


def test_what_serve_would_do_to_requests_is_told_worst_first() -> None:
    assert subjects(http_options={"request_timeout_s": 30.0}, proxy_location="Disabled") == [
        ("proxy location", True),
        ("request time-out", False),
    ]


async def test_the_check_asks_the_dashboard() -> None:
    dashboard = FakeDashboard()
    rows = {"summary": [{"hostname": "chat-raycluster-x7k2p-head-1", "raylet": {"isHeadNode": True}}]}
    dashboard.answers = {
        "/api/version": [httpx.Response(200, json={"ray_version": "2.58.0"})],
        "/nodes": [httpx.Response(200, json={"result": True, "data": rows})],
    }
    async with RayRest("http://ray.test", transport=dashboard.transport) as rest:
        serve = RayServe(rest, nodes=dashboard.instance.nodes)
        assert [concern.subject for concern in await serve.check()] == ["ray version", "rayservice"]
        with pytest.raises(Retry, match="Ray's dashboard"):
            await serve.check()
