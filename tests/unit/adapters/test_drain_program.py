"""The program that drains, on a GCS in memory: it drains nothing that somebody else uses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reconciler import drain_program

NODE = "ab12"


class Gcs:
    def __init__(self, total: dict[str, float], left: dict[str, float], *, told: bool = True) -> None:
        self.total, self.left, self.told = total, left, told
        self.accepts = True
        self.drained: list[tuple[Any, ...]] = []
        self.ended: list[bytes] = []

    def get_all_resource_usage(self, timeout: float) -> Any:
        row = SimpleNamespace(
            node_id=bytes.fromhex(NODE), resources_total=self.total if self.told else {}, resources_available=self.left
        )
        return SimpleNamespace(resource_usage_data=SimpleNamespace(batch=[row]))

    def get_all_node_info(self, timeout: float) -> Any:
        return {bytes.fromhex(NODE): SimpleNamespace(resources_total=self.total)}

    def drain_node(self, *arguments: Any) -> tuple[bool, str]:
        self.drained.append(arguments)
        return self.accepts, "" if self.accepts else "it is the head"

    def drain_nodes(self, nodes: list[bytes], timeout: float) -> list[bytes]:
        self.ended += nodes
        return nodes if self.accepts else []


def drained(gcs: Gcs, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch, node: str = NODE) -> dict[str, Any]:
    monkeypatch.setattr(drain_program, "WAIT_S", 0.0)
    return drain_program.drain_with(gcs, 2, (node, expected, "why"))


@pytest.mark.parametrize("told", [True, False])
def test_what_is_expected_is_drained_without_a_deadline(monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    gcs = Gcs({"CPU": 4, "node:10.0.0.1": 1, "object_store_memory": 9, "CPU_group_ab": 1}, {"CPU": 2.5}, told=told)
    assert drained(gcs, {"CPU": 1.5}, monkeypatch) == {"drained": True}
    assert gcs.drained == [(NODE, 2, "why", 0)]


def test_a_node_that_goes_anyway_is_drained_whatever_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gcs = Gcs({"CPU": 4}, {"CPU": 1})
    monkeypatch.setattr(drain_program, "WAIT_S", 0.0)
    assert drain_program.drain_with(gcs, 2, (NODE, None, "why")) == {"drained": True}
    assert gcs.drained == [(NODE, 2, "why", 0)]


@pytest.mark.parametrize("told", [True, False])
def test_what_somebody_else_uses_is_not(monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    gcs = Gcs({"CPU": 4, "GPU": 1}, {"CPU": 1.5, "GPU": 1}, told=told)
    said = drained(gcs, {"CPU": 1.5}, monkeypatch)
    assert said == {"drained": False, "why": "something that is not Heliostat's uses 1 CPU of it"}
    assert gcs.drained == []


def test_what_cannot_be_seen_is_not_taken_for_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gcs = Gcs({}, {})
    assert not drained(gcs, {}, monkeypatch)["drained"]
    assert not drained(Gcs({"CPU": 1}, {"CPU": 1}), {}, monkeypatch, node="cd34")["drained"]
    assert gcs.drained == []


def test_what_ray_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    gcs = Gcs({"CPU": 1}, {"CPU": 1})
    gcs.accepts = False
    assert drained(gcs, {}, monkeypatch) == {"drained": False, "why": "Ray refuses: it is the head"}


def test_ray_ends_on_a_node_that_only_has_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_program, "WAIT_S", 0.0)
    gcs = Gcs({"CPU": 4, "object_store_memory": 9}, {"CPU": 4, "object_store_memory": 3})
    assert drain_program.end_with(gcs, NODE) == {"drained": True}
    assert gcs.ended == [bytes.fromhex(NODE)]
    gcs.accepts = False
    assert drain_program.end_with(gcs, NODE) == {"drained": False, "why": "Ray does not know the node"}


def test_ray_does_not_end_where_something_runs_or_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_program, "WAIT_S", 0.0)
    for gcs in (Gcs({"CPU": 4}, {"CPU": 3}), Gcs({}, {})):
        assert not drain_program.end_with(gcs, NODE)["drained"]
        assert gcs.ended == []
