"""Whole courses of one service, told the same way each time, and what must come out however they are disturbed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.planning.compose import without_counts
from specs.desired import DesiredService
from tests.builders import service, steps
from tests.sim.world import Simulation

Meddle = Callable[[Simulation], None]

FIVE_STEPS = steps(10, "2", 25, "2", 50, "2", 75, "2", 90, "2")


@dataclass(frozen=True, kw_only=True)
class Course:
    """A story of one service, from its first deployment on. `effects`: at least as many as it takes undisturbed."""

    name: str
    size: int
    effects: int
    fails: bool = False
    drain_for: float = 5

    def spec(self, version: str) -> DesiredService:
        return service(version=version, sizes=self.size, steps=FIVE_STEPS, scale_down=self.drain_for, max_request=10)


ROLLOUT = Course(name="rollout", size=3, effects=80)
ROLLBACK = Course(name="rollback", size=3, effects=60, fails=True)
COURSES = (ROLLOUT, ROLLBACK)


async def tell(course: Course, meddle: Meddle = lambda sim: None, *, downtime: int = 0) -> Simulation:
    """Deploy, roll out, and see it settle; `meddle` may prepare trouble at the start."""
    sim = Simulation(downtime=downtime)
    meddle(sim)
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
    """Return the story without any trouble; it is told once."""
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
        "serve": {name: without_counts(json.dumps(config)) for name, config in sim.serve.configs().items()},
        "targets": sim.counts(),
        "created": sim.watch.created,
        "history": [(entry.revision, entry.outcome) for entry in sim.store._history],
        "told": {kind: kinds.count(kind) for kind in ("RolloutStarted", "Promoted", "RolledBack", "CellCreated")},
    }
