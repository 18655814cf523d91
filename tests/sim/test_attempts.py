"""A revision that was taken back and is tried again: the last attempt neither costs nor says anything."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from specs.desired import DesiredService
from specs.wishes import GoBack, Stand
from specs.world import World
from tests.builders import service, steps, zones
from tests.sim.test_policies import always
from tests.sim.test_zones import over_zones
from tests.sim.world import Simulation

QUICK: Mapping[str, Any] = {"rollback_policy": "ramp", "scale_down": 0, "max_request": 20, "deadline": 60}


@pytest.mark.parametrize("seconds", [0, 2, 5, 10, 15])
async def test_a_retry_while_the_failed_attempt_still_answers_cuts_no_request(seconds: int) -> None:
    sim = Simulation()
    sim.advisers.policies["rollback.ramp"] = always(Stand())

    def spec(revision: str) -> DesiredService:
        return service("chat", revision, 4, steps=steps(25, "60"), **QUICK)

    await sim.start()
    sim.push(spec("v1"))
    await sim.settle()
    sim.push(spec("v2"))
    await sim.until(lambda: sim.weights().get("v2", 0) >= 25, within=60, what="it has requests")
    await sim.run(5)
    sim.advisers.policies["rollback.ramp"] = always(GoBack(message="no"))
    await sim.until(lambda: bool(sim.memory().quarantine), within=60, what="it is taken back")
    sim.advisers.policies["rollback.ramp"] = always(Stand())
    await sim.run(seconds)
    assert await sim.order("retry") == ""
    await sim.until(lambda: sim.memory().stable == "v2", within=400, what="it was tried again")


@pytest.mark.parametrize("policy", ["", "cheap"], ids=["alone", "beside a placement policy"])
@pytest.mark.parametrize("seconds", [5, 40])
async def test_what_a_slow_policy_said_of_the_last_attempt_is_forgotten(policy: str, seconds: int) -> None:
    sim = over_zones("a", "b")
    plain = sim.advisers.consult

    async def slow(asked: str, subjects: Any, world: World) -> Any:
        found = await plain(asked, subjects, world)
        until = sim.clock.now() + timedelta(seconds=3)
        while sim.clock.now() < until:
            await asyncio.sleep(0)
        return found

    sim.advisers.consult = slow  # type: ignore[method-assign]
    sim.advisers.policies["rollback.ramp"] = always(Stand())
    sim.advisers.policies["placement.cheap"] = always(Stand())

    placement = replace(zones(), policy=policy) if policy else zones()

    def spec(revision: str) -> DesiredService:
        return service("chat", revision, 4, placement=placement, **QUICK)

    await sim.start()
    sim.push(spec("v1"))
    await sim.settle()
    sim.push(spec("v2"))
    await sim.run(6)
    sim.advisers.policies["rollback.ramp"] = always(GoBack(message="no"))
    await sim.until(lambda: bool(sim.memory().quarantine), within=60, what="it is taken back")
    before = len(sim.events())
    await sim.run(seconds)
    sim.advisers.policies["rollback.ramp"] = always(Stand())
    assert await sim.order("retry") == ""
    await sim.run(200)
    assert [event.message for event in sim.events()[before:] if event.kind == "PolicyFailed"] == []
    assert sim.memory().stable == "v2"
