"""Whose replicas get nothing new any more: those on nodes whose time is nearly over, if others take the requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from policies.preemption import without_leaving
from specs.cells import CellKey
from specs.memory import Memory
from specs.observed import Endpoint, GatewaySeen, LaneSeen
from specs.preemption import GRACE, Preemption
from tests.builders import NOW, cell, look, service

KEYS = {
    "stable": CellKey(service="chat", revision="v1"),
    "zone b": CellKey(service="chat", revision="v1", zone="b"),
    "baseline": CellKey(service="chat", revision="v1", generation=1),
    "canary": CellKey(service="chat", revision="v2"),
    "stranger": CellKey(service="other", revision="v1"),
}


def notice(seconds: float) -> Preemption:
    at = NOW + timedelta(seconds=seconds)
    return Preemption(node="n1", ip="", noticed_at=NOW, deadline=at, by="w")


@pytest.mark.parametrize(("seconds", "left"), [(120, 120 - GRACE.total_seconds()), (30, 15), (0, 0), (-5, 0)])
def test_half_of_a_short_notice_is_for_replacements(seconds: float, left: float) -> None:
    assert notice(seconds).left_at == NOW + timedelta(seconds=left)


def memory() -> Memory:
    made, _, _ = cell("v1")
    cells = tuple(replace(made, key=key, is_baseline=name == "baseline") for name, key in KEYS.items())
    known = look(service("chat", "v1", 2), cell("v1"), stable="v1").world.memory.services["chat"]
    chat = replace(known, cells=tuple(one for one in cells if one.key.service == "chat"))
    other = replace(known, name="other", cells=tuple(one for one in cells if one.key.service == "other"))
    return Memory(services={"chat": chat, "other": other})


def left(*told: tuple[str, int, str], down: str = "", doomed: str = "n1") -> set[str]:
    """Return the cells that are left, given each one's weight and the nodes of its replicas; `down` fail checks."""
    endpoints = {
        KEYS[name].name: tuple(Endpoint(ip="", port=1, replica=f"{name} {node}", node=node) for node in nodes.split())
        for name, _, nodes in told
    }
    lanes = tuple(
        LaneSeen(
            cell=KEYS[name].name,
            weight=weight,
            up=frozenset(f"{name} {node}" for node in nodes.split() if node not in down.split()),
        )
        for name, weight, nodes in told
    )
    gateway = GatewaySeen(is_direct=True, lanes=lanes)
    marked = without_leaving(endpoints, frozenset(doomed.split()), memory(), gateway)
    assert {one.node for found in marked.values() for one in found if one.is_leaving} <= set(doomed.split())
    names = {key.name: name for name, key in KEYS.items()}
    return {names[cell_name] for cell_name, found in marked.items() if any(one.is_leaving for one in found)}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([("stable", 10_000, "n1 n2")], {"stable"}),
        ([("stable", 10_000, "n1")], set()),
        ([("stable", 5_000, "n1"), ("zone b", 5_000, "n2")], {"stable"}),
        ([("stable", 10_000, "n1"), ("zone b", 0, "n2")], set()),
        ([("stable", 10_000, "n1"), ("canary", 0, "n2")], set()),
        ([("stable", 9_500, "n1"), ("canary", 500, "n2")], set()),
        ([("stable", 9_500, "n2"), ("canary", 500, "n1")], set()),
        ([("stable", 9_500, "n1"), ("baseline", 500, "n2")], set()),
        ([("stable", 9_500, "n1 n2"), ("canary", 500, "n1 n3")], {"stable", "canary"}),
        ([("stable", 10_000, "n1"), ("stranger", 10_000, "n2")], set()),
        ([("stable", 10_000, "n2"), ("canary", 0, "n1")], set()),
        ([("stable", 10_000, "n2"), ("canary", 0, "n1 n3")], {"canary"}),
    ],
    ids=[
        "another replica of the cell",
        "the only one",
        "another cell of the revision",
        "a warm cell without weight gets no request",
        "nor does a candidate that is not routed yet",
        "a candidate would inherit all",
        "nor does it give up its trial",
        "a baseline would inherit all",
        "each revision has another",
        "another service answers for nobody",
        "of what has no weight yet the only one is kept, too",
        "and left when it has another",
    ],
)
def test_a_node_is_left_when_its_own_revision_goes_on_elsewhere(
    told: list[tuple[str, int, str]], expected: set[str]
) -> None:
    assert left(*told) == expected


def test_a_server_that_fails_its_checks_takes_no_requests() -> None:
    assert left(("stable", 10_000, "n1 n2"), down="n2") == set()
    assert left(("stable", 10_000, "n1 n2 n3"), down="n2") == {"stable"}


def test_two_nodes_that_go_together_do_not_answer_for_each_other() -> None:
    assert left(("stable", 10_000, "n1 n2"), doomed="n1 n2") == set()
    assert left(("stable", 10_000, "n1 n2 n3"), doomed="n1 n2") == {"stable"}


def test_a_server_that_the_gateway_does_not_have_is_none() -> None:
    found = {KEYS["stable"].name: (Endpoint(ip="", port=1, replica="a", node="n1"),)}
    unseen = GatewaySeen(is_direct=True, lanes=())
    assert without_leaving(found, frozenset({"n1"}), memory(), unseen) == found
