"""Needed and free: what a replica waits for, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from policies.resources import shortages
from policies.view import view_of
from specs.observed import Node, Replica, ReplicaState
from specs.routes import FULL
from specs.world import World
from tests.builders import cell, node, service, world

GIB = 2.0**30


def blocked(
    *nodes: Node,
    needs: Mapping[str, float],
    held: Mapping[str, str],
    selector: Mapping[str, str] | None = None,
    says_so: bool = True,
) -> World:
    """Return a world whose v2 waits for a node; `held` are replicas of v1 by their node, as needy as it is."""
    made = world(service(version="v2"), cell("v1", weight=FULL), cell("v2", starting=1), stable="v1", candidate="v2")
    old, new = made.observed.cells
    lives = tuple(Replica(id=name, state=ReplicaState.STOPPING, node=where) for name, where in held.items())
    waits = (Replica(id="new", state=ReplicaState.STARTING),)
    old = replace(old, deployments=(replace(old.deployments[0], replicas=lives, needs=needs),))
    seen = replace(
        new.deployments[0], replicas=waits, needs=needs, selector=selector or {}, is_unplaced=says_so, target=1
    )
    cells = (old, replace(new, deployments=(seen,)))
    return replace(made, observed=replace(made.observed, cells=cells, nodes=nodes))


def told(made: World) -> str:
    return "; ".join(map(str, shortages(view_of(made, "chat"), "v2")))


ONE = node("n1", resources={"CPU": 4.0, "GPU": 1.0, "memory": 8 * GIB}, labels={"zone": "a"})
TWO = node("n2", resources={"CPU": 4.0, "GPU": 0.0, "memory": 8 * GIB}, labels={"zone": "b"})
GPU = {"CPU": 1.0, "GPU": 1.0}


def test_needed_and_free_are_told_per_resource_of_the_fittest_node() -> None:
    text = told(blocked(ONE, TWO, needs=GPU, held={"r1": "n1"}))
    assert text == (
        "Echo: 1 replica waits for room; "
        "the fittest of 2 node(s) has 3 CPU of 1 CPU, 0 GPU of 1 GPU free that each needs"
    )


@pytest.mark.parametrize(
    "made",
    [
        blocked(ONE, TWO, needs=GPU, held={}),
        blocked(ONE, TWO, needs=GPU, held={"r1": "n1"}, says_so=False),
        blocked(TWO, needs=GPU, held={}),
        blocked(ONE, TWO, needs=GPU, held={"r1": "n1"}, selector={"zone": "b"}),
        blocked(ONE, TWO, needs={"CPU": 5.0}, held={}),
    ],
    ids=["there is room", "Serve does not say so", "no node ever", "no such node ever", "more than any node has"],
)
def test_what_is_not_want_of_room_is_left_to_its_deadline(made: World) -> None:
    assert told(made) == ""


def test_room_on_several_nodes_together_is_no_room() -> None:
    halves = [node(f"n{n}", resources={"CPU": 4.0}) for n in (1, 2)]
    held = {f"r{n}": f"n{n}" for n in (1, 2)}
    assert "has 1 CPU of 3 CPU free" in told(blocked(*halves, needs={"CPU": 3.0}, held=held))


def test_labels_decide_which_nodes_count() -> None:
    free = replace(ONE, id="n3", labels={"zone": "c"})
    made = blocked(ONE, free, needs=GPU, held={"r1": "n1"}, selector={"zone": "in(a, b)"})
    assert "fittest of 1 node(s)" in told(made)


def test_a_draining_or_dead_node_has_no_room() -> None:
    made = blocked(ONE, replace(ONE, id="n4", is_draining=True), needs=GPU, held={"r1": "n1"})
    assert "fittest of 1 node(s)" in told(made)
