"""Whose replicas get nothing new any more: those on nodes whose time is nearly over, if there are others."""

from __future__ import annotations

from datetime import timedelta

import pytest

from policies.preemption import without_leaving
from specs.memory import Memory
from specs.observed import Endpoint, Node
from specs.preemption import GRACE, Preemption
from tests.builders import NOW, cell, look, service

OLD, NEW = "chat.v1.-.spot.0", "chat.v1.-.on-demand.0"


def notice(seconds: float, noticed: float = 0) -> Preemption:
    at = NOW + timedelta(seconds=noticed)
    return Preemption(node="n1", ip="", noticed_at=at, deadline=NOW + timedelta(seconds=seconds), by="w")


def doomed(seconds: float) -> Node:
    return Node(id="n1", ip="", is_alive=True, is_head=False, is_draining=True, preemption=notice(seconds))


def at(node: str) -> Endpoint:
    return Endpoint(ip="10.0.0.1", port=30000, replica=f"on-{node}", node=node)


@pytest.mark.parametrize(("seconds", "left"), [(120, 120 - GRACE.total_seconds()), (30, 15), (0, 0), (-5, 0)])
def test_half_of_a_short_notice_is_for_replacements(seconds: float, left: float) -> None:
    assert notice(seconds).left_at == NOW + timedelta(seconds=left)


def left(seconds: float, **found: tuple[Endpoint, ...]) -> set[str]:
    names = {"old": OLD, "new": NEW}
    told = {names[name]: endpoints for name, endpoints in found.items()}
    kept = without_leaving(told, [doomed(seconds)], Memory(), NOW)
    return {one.replica for endpoints in kept.values() for one in endpoints if one.is_leaving}


def test_a_node_is_left_only_when_its_time_is_nearly_over() -> None:
    assert left(120, old=(at("n1"), at("n2"))) == set()
    assert left(0, old=(at("n1"), at("n2"))) == {"on-n1"}


def test_a_service_that_has_no_other_replica_keeps_what_it_has() -> None:
    assert left(0, old=(at("n1"),)) == set()


def test_another_cell_of_the_same_service_is_another_replica() -> None:
    spec = service("chat", "v1", 2)
    view = look(spec, cell("v1", ready=1), cell("v1", zone="b", ready=1), stable="v1")
    both = {"chat.v1.-.-.0": (at("n1"),), "chat.v1.b.-.0": (at("n2"),)}
    kept = without_leaving(both, [doomed(0)], view.world.memory, NOW)
    assert kept["chat.v1.-.-.0"][0].is_leaving
    alone = {"chat.v1.-.-.0": (at("n1"),), "other.v1.-.-.0": (at("n2"),)}
    kept = without_leaving(alone, [doomed(0)], view.world.memory, NOW)
    assert not kept["chat.v1.-.-.0"][0].is_leaving, "another service's replica answers for nobody"
