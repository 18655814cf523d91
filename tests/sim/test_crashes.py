"""The daemon dies at each single effect of a rollout, and comes back: nothing is lost, doubled, or jumps."""

from __future__ import annotations

import pytest

from specs.desired import DesiredService
from tests.builders import service, steps
from tests.sim.world import Simulation

EFFECTS = 46
"""At least as many as the story has; `test_every_effect_was_tried` holds it to that."""


def spec(version: str) -> DesiredService:
    return service(version=version, sizes=2, steps=steps(50, "5"), scale_down=5, max_request=10)


async def tell(*, dies_at: int | None, is_after: bool = False) -> Simulation:
    sim = Simulation()
    if dies_at is not None:
        sim.crash.arm(dies_at, is_after=is_after)
    await sim.start()
    sim.push(spec("v1"))
    await sim.settle()
    sim.push(spec("v2"))
    await sim.settle()
    return sim


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("effect", range(1, EFFECTS + 1))
async def test_dying_at_an_effect_changes_nothing_of_the_story(effect: int, is_after: bool) -> None:
    sim = await tell(dies_at=effect, is_after=is_after)
    assert sim.memory().stable == "v2"
    assert sim.weights() == {"v2": 100.0}
    assert sim.counts() == {"v2": 2}
    assert sim.serve.peak("chat", "Echo") <= 3
    assert not sim.memory().quarantine
    assert sim.watch.created == {"chat.v1.-.-.0", "chat.v2.-.-.0"}
    kinds = [event.kind for event in sim.events()]
    assert kinds.count("Promoted") == 2
    assert kinds.count("RolloutStarted") == 2


async def test_every_effect_was_tried() -> None:
    sim = await tell(dies_at=None)
    assert sim.crash.count <= EFFECTS
    assert sim.watch.requests.answered > 0
