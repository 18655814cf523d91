"""What only the SQLite store can do: survive, migrate, refuse, and tell what is wrong with the disk."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from reconciler.adapters import store as store_module
from reconciler.adapters.store import FILE, MIGRATIONS, SqliteStore
from reconciler.adapters.stored_values import from_json, to_json
from reconciler.errors import Retry, Stalled
from specs.effects import SaveMemory
from specs.memory import Memory, ServiceMemory
from tests.contract.memories import entry, event, plain_service, rich_service

Opener = Callable[..., SqliteStore]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opener]:
    stores: list[SqliteStore] = []

    def open_store(**options: int) -> SqliteStore:
        stores.append(SqliteStore(tmp_path, **options))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()


async def test_another_process_loads_what_was_saved(opened: Opener) -> None:
    await opened().save(SaveMemory(services=(rich_service(),), events=(event("chat", "1"),)))
    second = opened()
    assert (await second.load()).services == {"chat": rich_service()}
    assert [found.message for found in await second.events()] == ["1"]


async def test_the_newest_events_and_history_are_kept(opened: Opener) -> None:
    store = opened(events_kept=3, history_kept=2)
    for number in range(5):
        message = str(number)
        await store.save(
            SaveMemory(events=(event("chat", message),), history=(entry("chat", message), entry(f"s{number}", message)))
        )
    assert [found.message for found in await store.events()] == ["2", "3", "4"]
    assert [found.message for found in await store.history("chat")] == ["4", "3"]
    assert [found.message for found in await store.history("s0")] == ["0"]


async def test_event_ids_never_repeat_even_after_all_were_forgotten(opened: Opener, tmp_path: Path) -> None:
    store = opened()
    await store.save(SaveMemory(events=(event("chat", "1"), event("chat", "2"))))
    last = (await store.events())[-1].id
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute("DELETE FROM events")
    await store.save(SaveMemory(events=(event("chat", "3"),)))
    assert (await store.events())[-1].id > last


async def test_a_failing_save_saves_nothing_of_it(opened: Opener, tmp_path: Path) -> None:
    store = opened()
    await store.save(SaveMemory(services=(plain_service("chat", 1),)))
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute("ALTER TABLE history RENAME TO elsewhere")
    change = SaveMemory(
        services=(plain_service("chat", 2),), events=(event("chat", "1"),), history=(entry("chat", "1"),)
    )
    with pytest.raises(Stalled):
        await store.save(change)
    assert (await store.load()).services["chat"].peak == 1
    assert await store.events() == ()


WRITER = """
import asyncio, sys
from pathlib import Path
from reconciler.adapters.store import SqliteStore
from specs.effects import SaveMemory
from tests.contract.memories import entry, event, plain_service

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    number = max((service.peak for service in (await store.load()).services.values()), default=0)
    while True:
        number += 1
        await store.save(SaveMemory(
            services=tuple(plain_service(name, number) for name in ("a", "b", "c")),
            events=(event("a", str(number)),),
            history=(entry("a", str(number)),),
        ))
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", [0.05, 0.12, 0.2])
async def test_a_kill_at_any_moment_leaves_whole_saves_and_loses_none_that_returned(
    opened: Opener, tmp_path: Path, moment: float
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        deadline = time.monotonic() + moment
        returned = 1
        while time.monotonic() < deadline:
            returned = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        returned = int(rest[-1]) if rest else returned
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
    store = opened()
    peaks = {service.peak for service in (await store.load()).services.values()}
    assert len(peaks) == 1, "a save was half written"
    (saved,) = peaks
    assert saved >= returned, "a save that had returned was lost"
    assert (await store.events())[-1].message == str(saved)
    assert (await store.history("a"))[0].message == str(saved)


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from reconciler.adapters.store import SqliteStore
from reconciler.errors import Stalled
from specs.effects import SaveMemory
from tests.contract.memories import plain_service

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.save(SaveMemory(services=(plain_service("chat", 1),)))
    used = sum(file.stat().st_size for file in Path(sys.argv[1]).iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (used, resource.RLIM_INFINITY))
    try:
        for number in range(2, 500):
            await store.save(SaveMemory(services=tuple(plain_service(f"s{n}", number) for n in range(200))))
    except Stalled as error:
        print(error.reason)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.save(SaveMemory(services=(plain_service("chat", 7),)))
    print((await store.load()).services["chat"].peak)

asyncio.run(main())
"""


def test_a_full_disk_is_told_and_saving_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    reason, peak = done.stdout.splitlines()
    assert "cannot be read or written" in reason
    assert "Make room on its disk" in reason
    assert peak == "7"


READ_ONLY = """
import asyncio, subprocess, sys
from pathlib import Path
from reconciler.adapters.store import SqliteStore
from reconciler.errors import Stalled
from specs.effects import SaveMemory
from tests.contract.memories import plain_service

folder = Path(sys.argv[1])

def mount(*options):
    subprocess.run(["mount", *options, str(folder)], check=True)

async def main():
    mount("-t", "tmpfs", "state")
    before = SqliteStore(folder)
    await before.save(SaveMemory(services=(plain_service("chat", 1),)))
    await before.close()
    mount("-o", "remount,ro")
    store = SqliteStore(folder)
    for _ in range(2):
        try:
            await store.save(SaveMemory(services=(plain_service("chat", 2),)))
        except Stalled as error:
            print(error.reason)
    mount("-o", "remount,rw")
    print((await store.load()).services["chat"].peak)
    await store.save(SaveMemory(services=(plain_service("chat", 3),)))
    print((await store.load()).services["chat"].peak)
    await store.close()

asyncio.run(main())
"""
OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]
"""A disk of the test's own: it is gone with the process, and nobody else ever sees it."""


def _may_mount() -> bool:
    mount = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "x", "/mnt"]
    try:
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _may_mount(), reason="needs unshare (util-linux), and a kernel that lets users mount")
def test_a_read_only_disk_is_told_and_saving_goes_on_when_it_is_writable_again(tmp_path: Path) -> None:
    command = [*OWN_MOUNTS, sys.executable, "-c", READ_ONLY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    *reasons, before, after = done.stdout.splitlines()
    assert len(reasons) == 2
    assert all("make it writable for this user" in reason for reason in reasons), reasons
    assert (before, after) == ("1", "3")


async def test_a_state_that_cannot_be_opened_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    store = SqliteStore(tmp_path)
    with pytest.raises(Stalled, match=str(tmp_path / FILE)):
        await store.load()
    await store.close()


@pytest.mark.parametrize("damage", [b"not a database at all, but long enough" * 200, None])
async def test_a_damaged_file_says_what_to_do(opened: Opener, tmp_path: Path, damage: bytes | None) -> None:
    first = opened()
    await first.save(SaveMemory(services=tuple(plain_service(f"s{number}") for number in range(300))))
    await first.close()
    path = tmp_path / FILE
    content = path.read_bytes()
    path.write_bytes(damage or content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(Stalled, match=r"damaged.*restore|damaged.*move it aside"):
        await opened().load()


async def test_somebody_elses_database_is_left_alone(opened: Opener, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("PRAGMA user_version = 1")
    with pytest.raises(Stalled, match="some other program's"):
        await opened().load()


async def test_a_newer_schema_is_refused_by_name(opened: Opener, tmp_path: Path) -> None:
    await opened().load()
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(Stalled, match="written by a newer Heliostat"):
        await opened().load()


async def test_an_older_schema_is_migrated_once_and_keeps_what_it_holds(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened().save(SaveMemory(services=(plain_service("chat", 4),)))
    step = "ALTER TABLE services ADD COLUMN note TEXT; UPDATE services SET note = 'kept'"
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, step))
    assert (await opened().load()).services["chat"].peak == 4
    assert (await opened().load()).services["chat"].peak == 4
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
        assert database.execute("SELECT note FROM services").fetchone() == ("kept",)


async def test_a_migration_that_fails_leaves_the_old_schema(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened().save(SaveMemory(services=(plain_service("chat", 4),)))
    broken = "ALTER TABLE services ADD COLUMN note TEXT; SELECT nonsense FROM nowhere"
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, broken))
        with pytest.raises(Stalled):
            await opened().load()
    assert (await opened().load()).services["chat"].peak == 4


async def test_a_locked_file_is_tried_again(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOCK_WAIT", store_module.LOCK_WAIT / 100)
    store = opened()
    await store.load()
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Retry, match="another program holds"):
            await store.save(SaveMemory(services=(plain_service("chat"),)))
        other.execute("ROLLBACK")
    await store.save(SaveMemory(services=(plain_service("chat"),)))


async def test_saves_do_not_block_the_loop(opened: Opener) -> None:
    store = opened()
    await store.load()
    change = SaveMemory(services=tuple(plain_service(f"s{number}") for number in range(500)))
    turns = 0

    async def count(saving: Awaitable[None]) -> None:
        nonlocal turns
        task = asyncio.ensure_future(saving)
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        await task

    await count(store.save(change))
    assert turns > 3


def test_the_same_value_is_always_the_same_text() -> None:
    text = to_json(rich_service())
    assert to_json(from_json(ServiceMemory, text)) == text
    assert to_json({"a": frozenset({"r3", "r1", "r2"})}) == '{"a":["r1","r2","r3"]}'


def test_the_sample_uses_every_field_so_that_a_new_one_cannot_be_forgotten_when_saving() -> None:
    service = rich_service()
    for value in (service, service.cells[0], service.rollout):
        unused = [
            item.name
            for item in fields(value)  # type: ignore[arg-type]
            if item.default is not MISSING and getattr(value, item.name) == item.default
        ]
        assert unused == [], f"give {type(value).__name__}.{unused} a value in tests/contract/memories.py"


def test_fields_of_another_minor_version_are_tolerated() -> None:
    document = json.loads(to_json(rich_service()))
    document["added_later"] = {"x": 1}
    document["cells"][0]["added_later"] = True
    del document["peak"]
    del document["ready_since"]
    restored = from_json(ServiceMemory, json.dumps(document))
    assert (restored.peak, restored.ready_since) == (0, {})
    assert restored.cells == rich_service().cells


async def test_an_event_in_words_unknown_here_is_left_out_and_a_service_is_not(opened: Opener, tmp_path: Path) -> None:
    store = opened()
    await store.save(SaveMemory(history=(entry("chat", "1"), entry("chat", "2")), services=(plain_service("chat"),)))
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute("UPDATE history SET value = replace(value, 'rolled-back', 'teleported') WHERE id = 1")
        database.execute("UPDATE services SET value = replace(value, '\"route\"', '\"rooute\"')")
    assert [found.message for found in await store.history("chat")] == ["2"]
    with pytest.raises(Stalled, match=r"service 'chat' cannot be read \(wanted.route: Field required\)"):
        await store.load()


async def test_only_its_owner_reads_the_state(opened: Opener, tmp_path: Path) -> None:
    await opened().save(SaveMemory(services=(plain_service("chat"),)))
    files = list(tmp_path.glob(f"{FILE}*"))
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_an_empty_memory_is_an_empty_memory(opened: Opener) -> None:
    store = opened()
    await store.save(SaveMemory())
    assert await store.load() == Memory()
