"""A command that was carried out is answered, whatever becomes of the store right after."""

from __future__ import annotations

from reconciler.errors import PortError, Stalled
from tests.builders import service, steps
from tests.sim.world import Simulation


async def test_a_store_that_cannot_tell_the_event_does_not_end_the_daemon() -> None:
    sim = Simulation()
    await sim.start()
    sim.push(service(version="v1", sizes=2, steps=steps(50, "")))
    await sim.settle()
    sim.push(service(version="v2", sizes=2, steps=steps(50, "")))
    await sim.until(lambda: sim.memory().rollout is not None and sim.memory().candidate == "v2")

    async def unreadable(**_: object) -> tuple[()]:
        failure: PortError = Stalled("the disk went away")
        raise failure

    sim.store.events = unreadable  # type: ignore[method-assign,assignment]
    assert await sim.order("pause") == ""
    assert sim.memory().pause is not None
