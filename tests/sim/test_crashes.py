"""The daemon dies at each single effect of a story, and comes back: nothing is lost, doubled, or jumps.

An effect is a save or what a save guards, so "before" and "after" each of them are all points of the journal,
the one between a save and its effect included. Every point is tried: a few lives with many deaths here, and one
life for each single death in test-full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from specs.desired import DesiredService
from tests.builders import service, steps
from tests.sim.world import Simulation

LIVES = 6
"""Lives per story: the daemon dies at every sixth effect, each life beginning one later."""

DOWNTIMES = {False: 0, True: 20}
"""Seconds until a daemon is back that died before, or after, an effect: at once, or when the world has moved on."""

FIVE_STEPS = steps(10, "2", 25, "2", 50, "2", 75, "2", 90, "2")


@dataclass(frozen=True, kw_only=True)
class Course:
    """A story of one service, from its first deployment on. `effects`: at least as many as it takes undisturbed."""

    name: str
    size: int
    effects: int
    fails: bool = False

    def spec(self, version: str) -> DesiredService:
        return service(version=version, sizes=self.size, steps=FIVE_STEPS, scale_down=5, max_request=10)


ROLLOUT = Course(name="rollout", size=3, effects=80)
ROLLBACK = Course(name="rollback", size=3, effects=60, fails=True)
COURSES = (ROLLOUT, ROLLBACK)


async def tell(course: Course, *, dies_at: int = 0, every: int = 0, is_after: bool = False) -> Simulation:
    sim = Simulation(downtime=DOWNTIMES[is_after])
    if dies_at:
        sim.crash.arm(dies_at, is_after=is_after, every=every)
    await sim.start()
    sim.push(course.spec("v1"))
    await sim.settle()
    sim.push(course.spec("v2"))
    if course.fails:
        await sim.until(lambda: sim.weights().get("v2", 0) >= 50)
        sim.book.sick.add("chat.v2.-.-.0")
    await sim.settle()
    return sim


_TOLD: dict[str, Simulation] = {}


async def undisturbed(course: Course) -> Simulation:
    """Return the story without any death; it is told once."""
    if course.name not in _TOLD:
        _TOLD[course.name] = await tell(course)
    return _TOLD[course.name]


def ending(sim: Simulation) -> Mapping[str, Any]:
    """Return everything that must be the same however often the daemon died."""
    memory = sim.memory()
    kinds = [event.kind for event in sim.events()]
    return {
        "stable": memory.stable,
        "candidate": memory.candidate,
        "outgoing": memory.outgoing,
        "quarantine": [(entry.revision, entry.reason) for entry in memory.quarantine],
        "good": memory.good,
        "cells": [(cell.key, dict(cell.counts), cell.is_retired) for cell in memory.cells],
        "weights": dict(memory.weights),
        "revisions": {record.id for record in memory.revisions},
        "generations": dict(memory.generations),
        "routes": sim.gateway.table,
        "serve": {name: dict(config) for name, config in sim.serve.configs().items()},
        "created": sim.watch.created,
        "history": [(entry.revision, entry.outcome) for entry in sim.store._history],
        "told": {kind: kinds.count(kind) for kind in ("RolloutStarted", "Promoted", "RolledBack", "CellCreated")},
    }


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("first", range(1, LIVES + 1))
@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.name)
async def test_dying_again_and_again_changes_nothing_of_the_story(course: Course, first: int, is_after: bool) -> None:
    calm = await undisturbed(course)
    sim = await tell(course, dies_at=first, every=LIVES, is_after=is_after)
    assert sim.crashes >= (calm.crash.count - first) // LIVES + 1
    assert ending(sim) == ending(calm)
    assert sim.serve.peak("chat", "Echo") <= course.size + 1


@pytest.mark.slow
@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("course", "effect"),
    [(course, effect) for course in COURSES for effect in range(1, course.effects + 1)],
    ids=lambda value: value.name if isinstance(value, Course) else str(value),
)
async def test_dying_at_one_effect_changes_nothing_of_the_story(course: Course, effect: int, is_after: bool) -> None:
    sim = await tell(course, dies_at=effect, is_after=is_after)
    assert ending(sim) == ending(await undisturbed(course))
    assert sim.serve.peak("chat", "Echo") <= course.size + 1


async def test_the_stories_have_two_hundred_points_at_which_to_die() -> None:
    told = {course.name: await undisturbed(course) for course in COURSES}
    counts = {name: sim.crash.count for name, sim in told.items()}
    assert 2 * sum(counts.values()) >= 200
    assert all(counts[course.name] <= course.effects for course in COURSES), counts
    assert all(sim.watch.requests.answered > 0 for sim in told.values())
    assert told["rollout"].memory().stable == "v2"
    assert told["rollback"].memory().quarantine
