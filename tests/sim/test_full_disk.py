"""A full or read-only disk: what cannot be remembered is not done, traffic stays, and it goes on when there is room."""

from __future__ import annotations

from typing import Any

import pytest

import reconciler.loop
from reconciler.apply import Results, apply
from reconciler.ports import Ports
from specs.effects import Effect, SaveMemory
from specs.reasons import Reason
from tests.sim.courses import COURSES, Course, Meddle, ending, tell, undisturbed
from tests.sim.world import Simulation

FULL = "the state file cannot be written: no space left on the device"


def filling(second: int, *, lasting: int) -> Meddle:
    """Let the disk be full from a second of the story on, and look at each second of it."""

    def fill(sim: Simulation) -> None:
        sim.store.full = FULL
        sim.before_full = (sim.gateway.table, len(sim.serve.puts), len(sim.serve.scales))  # type: ignore[attr-defined]

    def look(sim: Simulation) -> None:
        acts = (sim.gateway.table, len(sim.serve.puts), len(sim.serve.scales))
        assert acts == sim.before_full, "acts though nothing can be remembered"  # type: ignore[attr-defined]

    def meddle(sim: Simulation) -> None:
        sim.later(second, lambda: fill(sim))
        for later in range(second + 1, second + lasting + 1):
            sim.later(later, lambda: look(sim))
        sim.later(second + lasting, lambda: setattr(sim.store, "full", ""))

    return meddle


@pytest.mark.parametrize("second", [2, *range(36, 120, 14)])
@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.name)
async def test_nothing_is_done_that_could_not_be_remembered(course: Course, second: int) -> None:
    sim = await tell(course, filling(second, lasting=20))
    assert ending(sim) == ending(await undisturbed(course))


async def test_status_says_what_is_wrong_and_that_it_is_over() -> None:
    said: list[tuple[Reason, str]] = []

    def meddle(sim: Simulation) -> None:
        filling(60, lasting=50)(sim)
        for second in (109, 115):
            sim.later(second, lambda: said.append((sim.status().reason, sim.status().message)))

    await tell(COURSES[0], meddle)
    assert said[0] == (Reason.STORE_FAILED, FULL)
    assert said[1][0] is not Reason.STORE_FAILED


async def _fill_at_any_moment() -> None:
    for second in range(36, 120, 7):
        await tell(COURSES[0], filling(second, lasting=20))


async def test_acting_on_what_was_not_saved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def goes_on(ports: Ports, effects: tuple[Effect, ...], *rest: Any) -> Results:
        results = await apply(ports, [one for one in effects if isinstance(one, SaveMemory)], *rest)
        others = await apply(ports, [one for one in effects if not isinstance(one, SaveMemory)], *rest)
        results.done += others.done
        return results

    monkeypatch.setattr(reconciler.loop, "apply", goes_on)
    with pytest.raises(AssertionError, match=r"^(I8|acts though)"):
        await _fill_at_any_moment()
