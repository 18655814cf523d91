"""The whole loop on a repository behind a URL: it follows it, and nobody who runs beside it is starved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.git import GitSettings, GitSource
from reconciler.loop import Reconciler, Tick
from reconciler.planning.moment import Surroundings
from reconciler.ports import Outlook, Ports
from tests.builders import GATEWAY_URL
from tests.origin import Origin
from tests.sim.world import Simulation
from tests.watched import spec

ONCE = timedelta(hours=1)
OFTEN = timedelta(milliseconds=300)
WAITS = 40
"""More than a few commits and troubles take; a wait that never suspends is past it in a moment."""


class Patient(GitSource):
    """Ends a loop that does nothing but wait: where nobody else gets the processor, no test could fail either."""

    waits = 0

    async def changed(self, after: Outlook) -> Outlook:
        self.waits += 1
        assert self.waits < WAITS, "the loop waits for the same change again and again"
        return await super().changed(after)


class Following:
    """The daemon's loop on real Git and a simulated cluster, and somebody else who wants the processor too."""

    def __init__(self, source: Patient) -> None:
        around = Simulation()
        ports = Ports(
            clock=SystemClock(),
            source=source,
            serve=around.serve,
            nodes=around.nodes,
            packages=around.packages,
            gateway=around.gateway,
            store=around.store,
            gates=around.gates,
            metrics=around.metrics,
            advisers=around.advisers,
            jobs=around.jobs,
        )
        self.source = source
        self.ticks = 0
        self.beats = 0
        self.loop = Reconciler(ports, Surroundings(gateway_url=GATEWAY_URL), ticked=self._ticked)

    def _ticked(self, _tick: Tick) -> None:
        self.ticks += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.loop.load()
        async with asyncio.TaskGroup() as group:
            tasks = (group.create_task(self.loop.run()), group.create_task(self._beat()))
            yield
            for task in tasks:
                task.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            self.beats += 1

    async def until_at(self, sha: str) -> None:
        async with asyncio.timeout(20):
            while self.loop.status is None or sha not in (self.loop.status.commit or ""):
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("is_told", [True, False], ids=["webhook", "interval"])
async def test_the_loop_follows_a_url_and_starves_nobody(tmp_path: Path, *, is_told: bool) -> None:
    origin = Origin(tmp_path / "origin")
    interval = ONCE if is_told else OFTEN
    settings = GitSettings(url=f"file://{origin.folder}", state=tmp_path / "state", interval=interval)
    following = Following(Patient(settings, SystemClock()))
    async with following.running():
        for number in range(3):  # the first one ends the trouble of a repository without a branch
            ticks, beats = following.ticks, following.beats
            sha = origin.commit({"a.yaml": spec("a") + f"# {number}\n"})
            if is_told:
                following.source.nudge()
            await following.until_at(sha)
            assert following.ticks > ticks
            assert following.beats > beats
        waits, beats = following.source.waits, following.beats
        await asyncio.sleep(1)  # nothing changes: the wait that began is the only one
        assert following.source.waits == waits
        assert following.beats > beats
