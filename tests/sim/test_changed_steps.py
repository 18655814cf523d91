"""Steps that are changed under way, played to the end; the rules themselves are in the unit tests."""

from __future__ import annotations

from tests.builders import service, steps
from tests.sim.world import Simulation


async def test_a_stop_that_is_put_in_under_way_stops_the_rollout() -> None:
    sim = Simulation()
    await sim.start()
    sim.push(service("chat", "v1", 10, steps=steps(10, "30", 20, "60"), scale_down=5))
    await sim.settle()
    sim.push(service("chat", "v2", 10, steps=steps(10, "30", 20, "60"), scale_down=5))
    await sim.until(lambda: sim.weights().get("v2") == 20)

    sim.push(service("chat", "v2", 10, steps=steps(5, ""), scale_down=5))
    await sim.run(180)

    assert sim.weights() == {"v1": 95, "v2": 5}
    assert sim.status().phase.value == "Paused"
