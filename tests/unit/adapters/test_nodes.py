"""Ray's list of nodes in our words."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from reconciler.adapters.nodes import RayNodes
from reconciler.adapters.ray_rest import RayRest
from reconciler.errors import Retry

ROW = {
    "node_id": "n1",
    "node_ip": "10.0.0.1",
    "is_head_node": True,
    "state": "ALIVE",
    "state_message": None,
    "resources_total": {"CPU": 2.0, "memory": 1e9},
    "labels": {"ray.io/availability-zone": "a"},
    "start_time_ms": 1,
}


def listing(*rows: dict[str, Any], **fields: Any) -> dict[str, Any]:
    result = {"total": len(rows), "result": list(rows), "partial_failure_warning": "", **fields}
    return {"result": True, "msg": "", "data": {"result": result}}


def nodes(document: Any) -> RayNodes:
    def answer(request: httpx.Request) -> httpx.Response:
        assert dict(request.url.params) == {"detail": "1", "limit": "10000"}
        return httpx.Response(200, json=document)

    return RayNodes(RayRest("http://ray.test", transport=httpx.MockTransport(answer)))


async def test_nodes_come_with_zone_resources_and_fate() -> None:
    dead = {**ROW, "node_id": "n0", "state": "DEAD", "labels": None, "resources_total": None, "is_head_node": False}
    gone, alive = await nodes(listing(ROW, dead)).read()
    assert (alive.id, alive.ip, alive.zone, alive.is_alive, alive.is_head) == ("n1", "10.0.0.1", "a", True, True)
    assert alive.resources == {"CPU": 2.0, "memory": 1e9}
    assert (gone.id, gone.zone, gone.is_alive, gone.resources) == ("n0", None, False, {})


@pytest.mark.parametrize(
    "document",
    [
        {"result": False, "msg": "GCS is down", "data": None},
        listing(ROW, partial_failure_warning="one of two did not answer"),
        listing({"node_id": "n1"}),
        {"result": True},
        [],
    ],
)
async def test_an_incomplete_list_is_not_a_small_cluster(document: Any) -> None:
    with pytest.raises(Retry):
        await nodes(document).read()
