"""Revisions whose deployments, or the way these are scaled, differ from the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from policies.rollout import move
from specs.decisions import StartRevision
from tests.builders import Sizes, cell, look, revision, service, steps
from tests.sim.scenarios import CODE, Act, Shape, Story, Teller
from tests.sim.world import Simulation

QUICK: Mapping[str, Any] = {"steps": steps(50), "surge": 1, "scale_down": 20}
TWO_OF_BACKEND: Mapping[str, Any] = {"deployments": {"Echo": 1, "Backend": 2}}
"""The code's own counts: what counts where the spec lists none."""


async def rolled_out(*versions: tuple[str, Sizes]) -> Simulation:
    sim = Simulation()
    await sim.start()
    for version, sizes in versions:
        sim.push(service("chat", version, sizes, **QUICK))
        await sim.settle()
    return sim


@pytest.mark.parametrize("sizes", [((4, 8), 4), (4, (2, 8)), ((3, 6), (2, 4)), (3, 5)])
async def test_a_change_of_scaling_is_rolled_out_within_the_budget(
    sizes: tuple[int | tuple[int, int], int | tuple[int, int]],
) -> None:
    first, then = sizes
    sim = await rolled_out(("v1", {"Echo": first}), ("v2", {"Echo": then}))

    assert sim.status().stable == "v2"
    assert sim.counts() == {"v2": max(sim.status().replicas.target, 1)}
    assert sim.serve.peak("chat", "Echo") <= 6


@pytest.mark.parametrize("sizes", [(3, (3, 6)), ((3, 6), 3)])
async def test_going_back_over_a_change_of_scaling_scales_as_that_revision_was(
    sizes: tuple[int | tuple[int, int], int | tuple[int, int]],
) -> None:
    first, then = sizes
    sim = await rolled_out(("v1", {"Echo": first}), ("v2", {"Echo": then}))

    assert await sim.order("rollback") == ""
    await sim.settle()

    assert sim.status().stable == "v1"
    assert bool(sim.memory().cells[0].bounds) == isinstance(first, tuple)


async def test_a_deployment_that_a_bad_revision_would_have_added_is_not_missed() -> None:
    sim = await rolled_out(("v1", {"Echo": 2}))
    sim.push(service("chat", "v2", {"Echo": 2, "Extra": 2}, args=CODE["unstartable"], **QUICK))
    await sim.settle()

    assert sim.status().quarantined == ("v2",)
    assert sim.status().health.value == "Healthy"
    assert sim.status().replicas.target == 2


async def test_a_deployment_that_the_new_revision_dropped_is_not_missed_while_the_old_one_is_warm() -> None:
    sim = await rolled_out(("v1", {"Echo": 2, "Extra": 2}))
    sim.push(service("chat", "v2", {"Echo": 2}, **QUICK))
    await sim.until(lambda: sim.status().stable == "v2")
    await sim.run(3)

    assert sim.status().reason.value == "ScaleDownDelay"
    assert (sim.status().health.value, sim.status().sync.value) == ("Healthy", "Synced")


def test_a_candidate_that_is_not_wanted_any_more_can_still_be_created() -> None:
    """A newer revision may have to wait (its route is taken, say) before the candidate has a cell."""
    older = revision("v2", {"Echo": 3, "Extra": 1})
    view = look(
        service("chat", "v3"),
        cell("v1", ready=3, weight=10_000),
        stable="v1",
        candidate="v2",
        revisions=(revision("v1"), older),
    )

    started = [decision for decision in move(view) if isinstance(decision, StartRevision)]

    assert [dict(decision.counts) for decision in started] == [{"Echo": 1, "Extra": 1}]


async def test_what_a_new_revision_does_not_list_has_its_codes_count_whatever_one_that_never_ran_said_of_it() -> None:
    sim = await rolled_out(("v1", {"Echo": 1}))
    sim.push(service("chat", "v2", {"Echo": 1, "Backend": 1}, **QUICK))
    await sim.until(lambda: sim.status().candidate == "v2")
    assert not sim.memory().cells_of("v2"), "it is replaced before it has a cell"
    sim.push(service("chat", "v3", {"Echo": 1, "Backend": None}, args=TWO_OF_BACKEND, **QUICK))
    await sim.settle()

    assert sim.status().stable == "v3"
    assert targets(sim) == {"Echo": 1, "Backend": 2}


async def test_what_a_new_revision_ceases_to_list_has_its_codes_count_once_the_old_one_is_gone() -> None:
    sim = await rolled_out(("v1", {"Echo": 1, "Backend": 1}))
    sim.push(service("chat", "v2", {"Echo": 1, "Backend": None}, args=TWO_OF_BACKEND, **QUICK))
    await sim.settle()
    await sim.run(60)

    assert sim.status().stable == "v2"
    assert targets(sim) == {"Echo": 1, "Backend": 2}


def targets(sim: Simulation) -> Mapping[str, int]:
    """Return the counts that Serve works towards, over all cells."""
    totals: Counter[str] = Counter()
    for application in sim.serve.instance.applications.values():
        totals.update({name: found.target for name, found in application.deployments.items()})
    return totals


async def test_what_is_put_back_counts_with_its_codes_own_replicas() -> None:
    """Somebody took a cell away in the moment before a commit that lists fewer of a deployment than the code had."""
    shape = Shape(
        sizes={"Echo": 1, "Backend": None},
        surge=1,
        unavailable=0,
        steps=(),
        min_ready=0,
        scale_down=0,
        code=("good",) * 4,
        forms=({"Echo": 1, "Backend": 1},),
    )
    away = Act(after=0, what="remove", service=0, number=0)
    await Teller(Story(seed=0, shapes=(shape,), acts=(away,))).tell()
