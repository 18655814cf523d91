"""Notices of nodes that are about to go: who is meant, what was said, and that none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.errors import PortError, Retry, Stalled
from reconciler.ports import Clock
from reconciler.preemption import LONGEST, Preemptions
from specs.compaction import Holding
from specs.effects import SaveMemory
from specs.memory import Event
from specs.observed import Node
from specs.world import World
from tests.builders import cell, look, node, service
from tests.sim.fake_clock import DaemonClock, FakeClock, settle
from tests.sim.fake_store import FakeStore

NODES = (
    replace(node("head"), ip="10.0.0.1", is_head=True),
    replace(node("one"), ip="10.0.0.2"),
    replace(node("two"), ip="10.0.0.3"),
    replace(node("twin"), ip="10.0.0.4"),
    replace(node("other-twin"), ip="10.0.0.4"),
    replace(node("gone"), ip="10.0.0.2", is_alive=False),
)


def world(nodes: tuple[Node, ...] = NODES) -> World:
    seen = look(service("chat", "v1", 1), cell("v1"), stable="v1").world
    return replace(seen, observed=replace(seen.observed, nodes=nodes))


class SlowDrains:
    """`ports.Drains` in which some jobs never end, and others fail."""

    def __init__(self) -> None:
        self.hangs: set[str] = set()
        self.problems: dict[str, PortError] = {}
        self.asked: list[str] = []

    async def holdings(self) -> tuple[Holding, ...]:
        return ()

    async def drain(self, node: str, expected: Mapping[str, float] | None, why: str) -> None:
        self.asked.append(node)
        if node in self.hangs:
            await asyncio.Event().wait()
        if node in self.problems:
            raise self.problems[node]


class Keeper:
    """The keeper of notices on a store and drains that tests break."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.fake_clock = FakeClock()
        self.clock = clock or self.fake_clock
        self.store = FakeStore()
        self.drains = SlowDrains()
        self.notices = Preemptions(self.clock, self.store, self.drains, world)

    async def note(self, *nodes: str, seconds: float = 120) -> None:
        for name in nodes:
            await self.notices.note(name, self.clock.wall() + timedelta(seconds=seconds), "watcher")

    def told(self) -> set[str]:
        return {name for name, notice in self.notices.notices.items() if notice.is_told}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        run = asyncio.create_task(self.notices.run())
        await settle()
        try:
            yield
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError):
                await run


async def test_a_job_that_hangs_costs_no_other_node_its_time() -> None:
    keeper = Keeper()
    keeper.drains.hangs.add("one")
    async with keeper.running():
        await keeper.note("one", "two")
        await settle()
        assert keeper.told() == {"two"}
        await keeper.note("twin")
        await settle()
        assert keeper.told() == {"two", "twin"}
        await keeper.fake_clock.advance(timedelta(seconds=30))
        assert keeper.drains.asked.count("one") == 1, "told again while it is being told"


async def test_one_that_fails_is_told_again_and_ends_nothing() -> None:
    keeper = Keeper()
    keeper.drains.problems["one"] = Retry("Ray's head is busy")
    await keeper.note("one", "two")
    async with keeper.running():
        assert keeper.told() == {"two"}
        del keeper.drains.problems["one"]
        await keeper.fake_clock.advance(timedelta(seconds=2))
        assert keeper.told() == {"one", "two"}


async def test_a_node_is_named_by_its_id_or_an_address_of_its_own() -> None:
    keeper = Keeper()
    await keeper.note("10.0.0.2", "twin")
    assert set(keeper.notices.notices) == {"one", "twin"}, "the dead node's address is the living one's"
    with pytest.raises(Stalled, match="2 nodes have the address"):
        await keeper.note("10.0.0.4")


@pytest.mark.parametrize("name", ["head", "10.0.0.1"])
async def test_the_head_is_not_drained(name: str) -> None:
    keeper = Keeper()
    with pytest.raises(Stalled, match="head"):
        await keeper.note(name)
    assert keeper.notices.notices == {}


class BusyStore(FakeStore):
    """Another writer saves an event right after each of ours."""

    async def save(self, change: SaveMemory) -> int:
        saved = await super().save(change)
        at = datetime(2026, 1, 1, tzinfo=UTC)
        await super().save(SaveMemory(events=(Event(at=at, service="chat", kind="Scaled", message=""),)))
        return saved


async def test_the_event_is_the_notice_s_own_and_needs_no_reading() -> None:
    keeper = Keeper()
    keeper.store = BusyStore()
    notices = Preemptions(keeper.clock, keeper.store, keeper.drains, world)
    heard = await notices.note("one", keeper.clock.now() + timedelta(seconds=60), "watcher")
    saved = {event.id: event.kind for event in keeper.store._events}
    assert saved[heard.event] == "PreemptionNoted"


class Unreadable(FakeStore):
    """A store that takes what it is given and can show nothing of it."""

    async def events(self, *, service: str | None = None, since: int = 0, limit: int = 200) -> tuple[Event, ...]:
        raise Retry("another program holds the state file")


async def test_a_notice_that_is_saved_is_answered() -> None:
    keeper = Keeper()
    notices = Preemptions(keeper.clock, Unreadable(), keeper.drains, world)
    heard = await notices.note("one", keeper.clock.now() + timedelta(seconds=60), "watcher")
    assert heard.event > 0


@pytest.mark.parametrize("skew", [-300, 0, 300])
async def test_a_deadline_counts_from_when_it_is_heard_whatever_the_machine_s_clock_did(skew: int) -> None:
    set_by = [timedelta(0)]
    clock = DaemonClock(FakeClock(), lambda: set_by[0])
    keeper = Keeper(clock)
    set_by[0] = timedelta(seconds=skew)
    deadline = clock.wall() + timedelta(seconds=120)
    heard = await keeper.notices.note("one", deadline, "watcher")
    assert abs(heard.notice.deadline - clock.now() - timedelta(seconds=120)) < timedelta(seconds=1)
    again = await keeper.notices.note("one", deadline, "watcher")
    assert (again.event, again.notice) == (0, heard.notice)
    sooner = await keeper.notices.note("one", deadline - timedelta(seconds=30), "watcher")
    assert sooner.notice.deadline == heard.notice.deadline - timedelta(seconds=30)


@pytest.mark.parametrize(("year", "left"), [(1, timedelta(0)), (9999, LONGEST)])
async def test_a_deadline_in_no_year_of_ours_is_taken(year: int, left: timedelta) -> None:
    keeper = Keeper()
    at = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    heard = await keeper.notices.note("one", at, "watcher")
    assert heard.notice.deadline - keeper.clock.now() == left
