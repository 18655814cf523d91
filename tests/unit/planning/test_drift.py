"""The Drifted condition: what somebody else changed."""

from __future__ import annotations

from dataclasses import replace

from specs.desired import ClusterSettings
from specs.status import Condition
from tests.builders import service, steps
from tests.sim.world import Simulation


async def settled(settings: ClusterSettings | None = None) -> Simulation:
    sim = Simulation()
    await sim.start()
    sim.push(service("chat", "v1", 3, steps=steps(50)), settings=settings)
    await sim.settle()
    return sim


def drifted(sim: Simulation) -> Condition:
    return next(condition for condition in sim.status().conditions if condition.type == "Drifted")


async def test_nothing_has_drifted_over_a_rollout_of_ours() -> None:
    sim = await settled()
    sim.push(service("chat", "v2", 4, steps=steps(50), scale_down=5))

    for _ in range(60):
        await sim.step()
        assert drifted(sim).status == "False", drifted(sim).message


async def test_a_cell_that_somebody_removed_has_drifted_until_it_is_back() -> None:
    sim = await settled(replace(ClusterSettings(), self_heal=False))
    sim.somebody_removes_ours()
    await sim.run(3)

    assert (drifted(sim).status, drifted(sim).reason) == ("True", "Drifted")
    assert "chat.v1.-.-.0 is missing in Serve" in drifted(sim).message

    sim.push(service("chat", "v1", 3, steps=steps(50)))
    await sim.settle()
    assert drifted(sim).status == "False"


async def test_a_count_that_somebody_changed_has_drifted() -> None:
    sim = await settled(replace(ClusterSettings(), self_heal=False))
    await sim.serve.scale("chat.v1.-.-.0", "Echo", 2)
    await sim.run(3)

    assert "Echo of chat.v1.-.-.0 has 2 replicas, not 3" in drifted(sim).message
