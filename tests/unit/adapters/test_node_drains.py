"""What is on nodes beside Serve's replicas, and the job that drains one, on a dashboard in memory."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from typing import Any

import httpx
import pytest

from reconciler.adapters.node_drains import RayDrains, command_line
from reconciler.adapters.ray_rest import RayRest
from reconciler.errors import Retry, Stalled


def listing(*rows: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "result": True,
        "msg": "",
        "data": {"result": {"result": list(rows), "num_filtered": len(rows), "partial_failure_warning": "", **fields}},
    }


def actor(name: str, node: str = "n1", group: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "class_name": "Trainer",
        "node_id": node,
        "state": "ALIVE",
        "required_resources": {"CPU": 2.0},
        "placement_group_id": group,
    }


def group(name: str, *nodes: str, state: str = "CREATED") -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "bundles": [{"node_id": node, "unit_resources": {"GPU": 1.0}} for node in nodes],
    }


class Dashboard:
    def __init__(self) -> None:
        self.actors = listing()
        self.groups = listing()
        self.logs = 'HELIOSTAT {"drained": true}'
        self.status = "SUCCEEDED"
        self.entrypoints: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        match request.method, request.url.path:
            case "GET", "/api/v0/actors":
                assert request.url.params["filter_values"] == "ALIVE"
                return httpx.Response(200, json=self.actors)
            case "GET", "/api/v0/placement_groups":
                return httpx.Response(200, json=self.groups)
            case "POST", "/api/jobs/":
                self.entrypoints.append(json.loads(request.content)["entrypoint"])
                return httpx.Response(200, json={})
            case "GET", path if path.startswith("/api/jobs/") and path.endswith("/logs"):
                return httpx.Response(200, json={"logs": self.logs})
            case "GET", path if path.startswith("/api/jobs/") and self.entrypoints:
                return httpx.Response(200, json={"status": self.status, "message": "the job's message"})
        return httpx.Response(404)

    @property
    def drains(self) -> RayDrains:
        return RayDrains(RayRest("http://ray.test", transport=httpx.MockTransport(self.answer)))


async def test_what_is_not_serves_own_is_told_with_what_it_takes() -> None:
    ray = Dashboard()
    ray.actors = listing(
        actor("SERVE_REPLICA::chat#Main#abc"),
        actor("SERVE_PROXY_ACTOR-n1"),
        actor("SERVE_CONTROLLER_ACTOR", "head"),
        actor(""),
        actor("inside", "n2", "g1"),
    )
    ray.groups = listing(
        group("training", "n2", "n3"),
        group("SERVE_REPLICA::one-node", "n1", "n1"),
        group("SERVE_REPLICA::two-nodes", "n1", "n4"),
        group("gone", "n5", state="REMOVED"),
    )
    found = [(held.node, held.what, dict(held.resources)) for held in await ray.drains.holdings()]
    assert found == [
        ("head", "SERVE_CONTROLLER_ACTOR", {"CPU": 2.0}),
        ("n1", "Trainer", {"CPU": 2.0}),
        ("n1", "the placement group SERVE_REPLICA::two-nodes", {"GPU": 1.0}),
        ("n2", "inside", {}),
        ("n2", "the placement group training", {"GPU": 1.0}),
        ("n3", "the placement group training", {"GPU": 1.0}),
        ("n4", "the placement group SERVE_REPLICA::two-nodes", {"GPU": 1.0}),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {"result": False, "msg": "GCS is down", "data": None},
        listing(actor("x"), partial_failure_warning="one of two did not answer"),
        listing(actor("x"), num_filtered=2),
        {"result": True},
    ],
)
async def test_half_a_list_is_not_an_idle_cluster(broken: dict[str, Any]) -> None:
    ray = Dashboard()
    ray.actors = broken
    with pytest.raises(Retry):
        await ray.drains.holdings()


async def test_a_drain_is_a_job_that_brings_its_own_program() -> None:
    ray = Dashboard()
    await ray.drains.drain("ab12", {"CPU": 1.5}, "Heliostat empties 10.0.0.1")
    python, option, program, *arguments = shlex.split(ray.entrypoints[0])
    assert (python, option) == ("python", "-c")
    assert arguments == ["ab12", '{"CPU": 1.5}', "Heliostat empties 10.0.0.1"]
    # The text is whole: it compiles, and knows its own names.
    check = program.replace("exec(compile(", "code=(compile(") + ";print('drain' in code.co_names)"
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert said == "True\n"


async def test_ending_is_a_job_of_the_same_program() -> None:
    ray = Dashboard()
    await ray.drains.end("ab12")
    *_, node, amounts, why, verb = shlex.split(ray.entrypoints[0])
    assert (node, amounts, why, verb) == ("ab12", "{}", "", "end")
    ray.logs = 'HELIOSTAT {"drained": false, "why": "something is in use on it"}'
    with pytest.raises(Stalled, match="something is in use on it"):
        await ray.drains.end("ab12")


async def test_what_the_job_refuses_is_said_in_its_words() -> None:
    ray = Dashboard()
    ray.logs = 'noise\nHELIOSTAT {"drained": false, "why": "something that is not Heliostat\'s uses 1 CPU of it"}\n'
    with pytest.raises(Stalled) as refused:
        await ray.drains.drain("ab12", {}, "why")
    assert refused.value.reason == "something that is not Heliostat's uses 1 CPU of it"
    ray.logs, ray.status = "Traceback\nImportError: no ray", "FAILED"
    with pytest.raises(Stalled, match="ImportError: no ray"):
        await ray.drains.drain("ab12", {}, "why")


def test_a_node_or_a_reason_with_quotes_is_one_word() -> None:
    assert shlex.split(command_line("n'; rm -rf /", {}, "it's `time`"))[3:] == ["n'; rm -rf /", "{}", "it's `time`"]
