"""A Ray dashboard that is slow, fails, breaks off or sends half an answer is an outage, never an empty cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from reconciler.adapters import ray_rest
from reconciler.adapters.nodes import RayNodes
from reconciler.adapters.ray_rest import RayRest
from reconciler.adapters.serve import RayServe
from reconciler.errors import Retry
from specs.effects import PutServeConfig
from tests.local_http import Answer, Heard, drop_by_drop, hanging_up, never, saying, serving
from tests.sim.fake_dashboard import FakeDashboard

CHAT = {"name": "chat.v1.-.-.0", "route_prefix": "/_/chat.v1.-.-.0", "import_path": "app:build"}
PUT = PutServeConfig(applications=(), removed=frozenset(), may_cut_builds=False)


def whole() -> dict[str, Any]:
    """Return a report of one running application."""
    dashboard = FakeDashboard()
    dashboard.instance.put({"applications": [CHAT]})
    dashboard.advance(timedelta(seconds=30))
    return dashboard.instance.details()


def without(document: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Return a copy of a document without one key."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return copy


def says(body: bytes, *, status: int = 200) -> Answer:
    return saying(status, body)


async def breaks_off(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """Promise the whole report and send half of it."""
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(FULL)}\r\n\r\n".encode() + FULL[: len(FULL) // 2])


FULL = json.dumps(whole()).encode()
APP = ("applications", CHAT["name"])

TROUBLES: Mapping[str, Answer] = {
    "500": says(b"Traceback\nRuntimeError: the GCS is gone", status=500),
    "503": says(b"", status=503),
    "404, as a dashboard that has not loaded Serve yet": says(b"404: Not Found", status=404),
    "no JSON": says(b"<html>starting</html>"),
    "nothing": says(b""),
    "cut in the middle": says(FULL[: len(FULL) // 2]),
    "breaks off": breaks_off,
    "an empty object": says(b"{}"),
    "a list": says(b"[]"),
    "null": says(b"null"),
    "no applications": says(json.dumps(without(whole(), "applications")).encode()),
    "no controller": says(json.dumps(without(whole(), "controller_info")).encode()),
    "an application without its deployments": says(json.dumps(without(whole(), *APP, "deployments")).encode()),
    "an application without its status": says(json.dumps(without(whole(), *APP, "status")).encode()),
    "silence": never,
    "a byte now and then": drop_by_drop,
    "no answer at all": hanging_up,
}


@pytest.mark.parametrize("name", TROUBLES)
async def test_half_an_answer_is_no_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_rest, "READ_WITHIN", timedelta(seconds=0.2))
    monkeypatch.setattr(ray_rest, "CONNECT_WITHIN", timedelta(seconds=0.2))
    async with serving(TROUBLES[name]) as server, RayRest(server.url) as rest:
        with pytest.raises(Retry):
            await RayServe(rest).read()
        with pytest.raises(Retry):
            await RayServe(rest).put(PUT)
        assert [heard.method for heard in server.heard if heard.method != "GET"] == [], "nothing is written blindly"


@pytest.mark.parametrize("name", sorted(TROUBLES.keys() - {"an application without its deployments"}))
async def test_nodes_are_not_gone_either(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_rest, "READ_WITHIN", timedelta(seconds=0.2))
    monkeypatch.setattr(ray_rest, "CONNECT_WITHIN", timedelta(seconds=0.2))
    async with serving(TROUBLES[name]) as server, RayRest(server.url) as rest:
        with pytest.raises(Retry):
            await RayNodes(rest).read()


async def test_the_whole_answer_is_read() -> None:
    async with serving(says(FULL)) as server, RayRest(server.url) as rest:
        (cell,) = (await RayServe(rest).read()).cells
        assert cell.name == CHAT["name"]
