"""A daemon that is upgraded in the middle of things reads what the version before it left, and goes on.

The files in `tests/states` were written by released code, in the simulation, and are never made anew: a field that
this version cannot do without would be missed here first.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.store import SqliteStore
from reconciler.planning.compose import with_counts
from reconciler.planning.routing import route_table
from specs.desired import FixedScale
from specs.memory import Memory
from tests.sim.world import Simulation

STATES = Path(__file__).parent.parent / "states"

ENDS = {"0.1.0-canary": "v2", "0.1.0-rolled-back": "v1", "0.1.0-warm": "v2"}
"""Each state, and what its service `chat` must end with when Git stays as it was."""


async def remembered(name: str, folder: Path) -> Memory:
    """Return what the daemon of today makes of an older file."""
    shutil.copy(STATES / f"{name}.db", folder / "state.db")
    store = SqliteStore(folder)
    try:
        assert await store.events(), "its events are readable"
        return await store.load()
    finally:
        await store.close()


async def world_of(memory: Memory) -> Simulation:
    """Return the cluster and the gateway as that memory stands for them, the daemon not started yet."""
    sim = Simulation()
    sim.clock.jump(timedelta(minutes=5))
    sim.store._services = dict(memory.services)
    cells = [cell for service in memory.services.values() for cell in service.cells]
    sim.watch.created |= {cell.key.name for cell in cells}
    sim.serve.put_by_somebody_else([json.loads(with_counts(cell, None)) for cell in cells if not cell.is_retired])
    await sim.gateway.route(route_table(memory))
    sim.watch._told = {name: sim.watch.weights(name) for name in memory.services}
    for _ in range(15):  # The replicas start, and the gateway finds them, while the daemon is being upgraded.
        await sim.step(restart=False)
    return sim


@pytest.mark.parametrize("name", ENDS)
async def test_an_older_state_is_read_to_the_last_word(name: str, tmp_path: Path) -> None:
    memory = await remembered(name, tmp_path)
    assert set(memory.services) == {"chat", "search"}
    assert memory.services["chat"].cells
    assert all(cell.config for service in memory.services.values() for cell in service.cells)


@pytest.mark.parametrize("name", ENDS)
async def test_the_upgraded_daemon_goes_on_where_the_old_one_was(name: str, tmp_path: Path) -> None:
    memory = await remembered(name, tmp_path)
    sim = await world_of(memory)
    before = sim.weights("chat")
    sim.push(*(service.wanted for service in memory.services.values()))
    await sim.step()
    assert sim.weights("chat") == before, "an upgrade moves no traffic"
    assert [e.kind for e in sim.events("chat") if e.kind in ("RolloutStarted", "RolledBack", "CellRestored")] == []
    await sim.settle(within=2400)
    assert sim.memory("chat").stable == ENDS[name]
    assert sim.weights("chat") == {ENDS[name]: 100.0}
    assert sim.counts("chat") == {ENDS[name]: 4}
    assert [entry.revision for entry in sim.memory("chat").quarantine] == (["v2"] if name.endswith("back") else [])
    assert sim.watch.created == {cell.key.name for s in memory.services.values() for cell in s.cells}


async def test_a_newer_commit_after_the_upgrade_wins(tmp_path: Path) -> None:
    memory = await remembered("0.1.0-canary", tmp_path)
    sim = await world_of(memory)
    chat = memory.services["chat"].wanted
    args = json.loads(chat.revision.template)
    args["args"]["version"] = "v3"
    newer = replace(chat.revision, id="v3", template=json.dumps(args, sort_keys=True, separators=(",", ":")))
    assert isinstance(newer.scale("Echo"), FixedScale)
    sim.push(replace(chat, revision=newer), memory.services["search"].wanted)
    await sim.settle(within=2400)
    assert sim.weights("chat") == {"v3": 100.0}
