"""What every Store does, held to the fake and to SQLite alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.adapters.store import SqliteStore
from reconciler.ports import Store
from specs.compaction import CompactionMemory, DrainState, GivenUp, NodeDrain, Order
from specs.effects import SaveMemory
from specs.memory import Memory
from specs.preemption import Preemption, PreemptionMemory
from tests.contract.memories import AT, entry, event, plain_service, rich_service
from tests.sim.fake_store import FakeStore


@pytest.fixture(params=["fake", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield FakeStore()
        return
    sqlite = SqliteStore(tmp_path / "state")
    yield sqlite
    await sqlite.close()


async def test_what_compaction_has_begun_is_kept_beside_the_services(store: Store) -> None:
    drain = NodeDrain(node="n", ip="10.0.0.1", since=AT, state=DrainState.ASKED, replicas=2, progress_at=AT)
    entry = GivenUp(node="m", ip="10.0.0.2", at=AT, until=AT, why="it stalled", is_draining=True)
    kept = CompactionMemory(drains=(drain,), given_up=(entry,), order=Order(by="ada", at=AT), freed=3)
    assert (await store.load()).compaction == CompactionMemory()
    await store.save(SaveMemory(compaction=kept))
    await store.save(SaveMemory(services=(plain_service("a"),)))
    loaded = await store.load()
    assert (loaded.compaction, set(loaded.services)) == (kept, {"a"})


async def test_notices_of_nodes_that_go_are_kept_beside_the_services(store: Store) -> None:
    notice = Preemption(node="n", ip="10.0.0.1", noticed_at=AT, deadline=AT, announced=AT, by="w", why="reclaimed")
    kept = PreemptionMemory(notices=(notice, replace(notice, node="m", is_told=True)))
    await store.save(SaveMemory(preemption=kept))
    await store.save(SaveMemory(services=(plain_service("a"),), compaction=CompactionMemory(freed=1)))
    loaded = await store.load()
    assert (loaded.preemption, set(loaded.services), loaded.compaction.freed) == (kept, {"a"}, 1)


async def test_a_save_says_which_its_last_event_is(store: Store) -> None:
    assert await store.save(SaveMemory(services=(plain_service("a"),))) == 0
    both = await store.save(
        SaveMemory(events=(event("chat", "1"), event("search", "2")), history=(entry("chat", "1"),))
    )
    assert [one.id for one in await store.events()][-1] == both
    assert await store.save(SaveMemory(services=(plain_service("a"),))) == 0
    third = await store.save(SaveMemory(events=(event("chat", "3"),)))
    assert (await store.events(since=both))[0].id == third


async def test_a_new_store_remembers_nothing(store: Store) -> None:
    assert await store.load() == Memory()
    assert await store.events() == ()
    assert await store.history("chat") == ()


async def test_what_was_saved_is_loaded_to_the_last_field(store: Store) -> None:
    await store.save(SaveMemory(services=(rich_service(), plain_service("search"))))
    memory = await store.load()
    assert memory == Memory(services={"chat": rich_service(), "search": plain_service("search")})


async def test_weights_keep_their_order_because_it_decides_who_moves(store: Store) -> None:
    await store.save(SaveMemory(services=(rich_service(),)))
    assert list((await store.load()).services["chat"].weights) == ["z.cell", "a.cell"]


async def test_a_save_replaces_its_services_and_leaves_the_others(store: Store) -> None:
    await store.save(SaveMemory(services=(plain_service("a", 1), plain_service("b", 1), plain_service("c", 1))))
    await store.save(SaveMemory(services=(plain_service("a", 2),), forgotten=("c", "never-there")))
    assert {name: service.peak for name, service in (await store.load()).services.items()} == {"a": 2, "b": 1}


async def test_events_get_ascending_ids_and_come_oldest_first(store: Store) -> None:
    await store.save(SaveMemory(events=(event("chat", "1"), event("search", "2"))))
    await store.save(SaveMemory(events=(event("chat", "3"),)))
    events = await store.events()
    assert [found.message for found in events] == ["1", "2", "3"]
    ids = [found.id for found in events]
    assert ids == sorted(set(ids))
    assert ids[0] > 0


async def test_events_without_since_are_the_newest_and_with_since_the_next(store: Store) -> None:
    await store.save(SaveMemory(events=tuple(event("chat", str(number)) for number in range(10))))
    newest = await store.events(limit=3)
    assert [found.message for found in newest] == ["7", "8", "9"]
    following = await store.events(since=newest[0].id - 4, limit=2)
    assert [found.message for found in following] == ["4", "5"]
    assert await store.events(since=newest[-1].id) == ()


async def test_events_can_be_of_one_service(store: Store) -> None:
    await store.save(SaveMemory(events=(event("chat", "1"), event("search", "2"), event("chat", "3"))))
    assert [found.message for found in await store.events(service="chat")] == ["1", "3"]
    assert [found.message for found in await store.events(service="chat", limit=1)] == ["3"]
    assert [found.message for found in await store.events(service="search", since=1)] == ["2"]


async def test_history_is_per_service_newest_first_and_whole(store: Store) -> None:
    await store.save(SaveMemory(history=(entry("chat", "1"), entry("search", "2"))))
    await store.save(SaveMemory(history=(entry("chat", "3"),)))
    assert await store.history("chat") == (entry("chat", "3"), entry("chat", "1"))


async def test_events_and_history_outlive_a_forgotten_service(store: Store) -> None:
    await store.save(
        SaveMemory(services=(plain_service("chat"),), events=(event("chat", "1"),), history=(entry("chat", "1"),))
    )
    await store.save(SaveMemory(forgotten=("chat",)))
    assert (await store.load()).services == {}
    assert len(await store.events(service="chat")) == 1
    assert len(await store.history("chat")) == 1
