"""Where `rollback` leads: to revisions that were good, never to one that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.builders import service, steps
from tests.sim.scenarios import CODE
from tests.sim.world import Simulation

QUICK: Mapping[str, Any] = {"steps": steps(50), "scale_down": 5}


async def rolled_out(*versions: tuple[str, str]) -> Simulation:
    """Return a simulation after each (version, code) was pushed and came to rest."""
    sim = Simulation()
    await sim.start()
    for version, code in versions:
        sim.push(service("chat", version, 2, args=CODE[code], **QUICK))
        await sim.settle()
    return sim


async def test_rollback_passes_over_a_revision_that_failed_before_the_stable_one() -> None:
    sim = await rolled_out(("v1", "good"), ("v2", "unstartable"), ("v3", "good"))

    assert await sim.order("rollback") == ""
    await sim.settle()

    assert sim.status().stable == "v1"


async def test_rollback_to_a_revision_that_failed_is_refused_and_names_the_good_ones() -> None:
    sim = await rolled_out(("v1", "good"), ("v2", "unstartable"), ("v3", "good"))

    assert "known: v1" in await sim.order("rollback", to="v2")


async def test_what_people_went_back_from_is_not_where_the_next_way_back_leads() -> None:
    sim = await rolled_out(("v1", "good"), ("v2", "good"))
    assert await sim.order("rollback") == ""
    await sim.settle()
    sim.push(service("chat", "v3", 2, **QUICK))
    await sim.settle()

    assert await sim.order("rollback") == ""
    await sim.settle()

    assert sim.status().stable == "v1"
