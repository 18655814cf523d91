"""Memory, events and history in one SQLite file that survives a `kill -9` at any moment.

Every save is one transaction, on the disk when it returns (WAL with full synchronisation). SQLite blocks,
so it lives in a thread of its own.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from reconciler.adapters import state_folder
from reconciler.adapters.stored_values import from_json, to_json
from reconciler.errors import Retry, Stalled
from specs.compaction import CompactionMemory
from specs.effects import SaveMemory
from specs.memory import Event, HistoryEntry, Memory, ServiceMemory
from specs.preemption import PreemptionMemory

T = TypeVar("T")

FILE = "state.db"
EVENTS_KEPT = 10_000
"""Weeks of a busy cluster; unbounded, the file would fill the disk and stop the daemon."""
HISTORY_KEPT = 1_000
"""Per service."""
LOCK_WAIT = timedelta(seconds=2)
"""A backup tool may hold the file for a moment."""
MEND = "Make room on its disk, or make it writable for this user; nothing is changed on Ray until then"
COMPACTION = "compaction"
PREEMPTION = "preemption"
"""The rows of the cluster's own values, by who keeps them."""
APPLICATION_ID = 0x48454C49
"""`HELI`: tells our file from any other SQLite file."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE services (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, service TEXT NOT NULL, value TEXT NOT NULL);
    CREATE INDEX events_of ON events (service, id);
    CREATE TABLE history (id INTEGER PRIMARY KEY AUTOINCREMENT, service TEXT NOT NULL, value TEXT NOT NULL);
    CREATE INDEX history_of ON history (service, id);
    """,
    "CREATE TABLE cluster (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;",
)
"""Step i takes a file from schema version i to i + 1. Steps are only ever added: old files must load."""


class SqliteStore:
    """`ports.Store` in `FOLDER/state.db`."""

    def __init__(self, folder: Path, *, events_kept: int = EVENTS_KEPT, history_kept: int = HISTORY_KEPT) -> None:
        """Nothing is opened before the first call."""
        self._folder = folder
        self._path = folder / FILE
        self._events_kept = events_kept
        self._history_kept = history_kept
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heliostat-store")
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False

    async def load(self) -> Memory:
        """Return what was saved last; an empty Memory at the first start."""
        return await self._run(self._load)

    async def save(self, change: SaveMemory) -> int:
        """Save in one transaction, durable on return; return the id of its last event, 0 without one.

        Raises Stalled when the disk is full or read-only.
        """
        return await self._run(lambda database: self._save(database, change))

    async def events(self, *, service: str | None = None, since: int = 0, limit: int = 200) -> tuple[Event, ...]:
        """Return events with an id above `since`, oldest first; with `since=0` the newest `limit`."""
        return await self._run(lambda database: _events(database, service, since, limit))

    async def history(self, service: str) -> tuple[HistoryEntry, ...]:
        """Return a service's ended rollouts, newest first."""
        return await self._run(lambda database: _history(database, service))

    async def close(self) -> None:
        """Close the file; the store is of no use afterwards. Harmless when it was closed before."""
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def guarded() -> T:
            with self._translated():
                return work(self._opened())

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            state_folder.prepare(self._folder)
            self._create()
            database = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=LOCK_WAIT.total_seconds()
            )
            try:
                _set_up(database, self._path)
            except BaseException:
                database.close()
                raise
            self._connection = database
        return self._connection

    def _create(self) -> None:
        """Make the file readable by its owner only; SQLite gives its -wal and -shm files the same mode."""
        try:
            self._path.touch(mode=0o600)
        except OSError as error:
            raise Stalled(f"the state file {self._path} cannot be written: {error.strerror}. {MEND}") from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _load(self, database: sqlite3.Connection) -> Memory:
        services = {}
        for name, value in database.execute("SELECT name, value FROM services ORDER BY name"):
            try:
                services[name] = from_json(ServiceMemory, value)
            except ValueError as error:
                raise Stalled(
                    f"what {self._path} remembers of service {name!r} cannot be read ({error}). "
                    "Run the Heliostat version that wrote it, or restore the file from a backup"
                ) from error
        return Memory(
            services=services,
            compaction=self._load_part(database, COMPACTION, CompactionMemory),
            preemption=self._load_part(database, PREEMPTION, PreemptionMemory),
        )

    def _load_part(self, database: sqlite3.Connection, name: str, kind: type[T]) -> T:
        row = database.execute("SELECT value FROM cluster WHERE name = ?", (name,)).fetchone()
        try:
            return from_json(kind, row[0]) if row is not None else kind()
        except ValueError as error:
            raise Stalled(
                f"what {self._path} remembers of {name} cannot be read ({error}). "
                "Run the Heliostat version that wrote it, or restore the file from a backup"
            ) from error

    def _save(self, database: sqlite3.Connection, change: SaveMemory) -> int:
        with _transaction(database):
            database.executemany(
                "INSERT INTO services VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                [(service.name, to_json(service)) for service in change.services],
            )
            database.executemany("DELETE FROM services WHERE name = ?", [(name,) for name in change.forgotten])
            for name, part in ((COMPACTION, change.compaction), (PREEMPTION, change.preemption)):
                if part is not None:
                    database.execute(
                        "INSERT INTO cluster VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                        (name, to_json(part)),
                    )
            newest = _add_events(database, change.events)
            database.executemany(
                "INSERT INTO history (service, value) VALUES (?, ?)",
                [(entry.service, to_json(entry)) for entry in change.history],
            )
            self._forget_oldest(database, change)
        return newest

    def _forget_oldest(self, database: sqlite3.Connection, change: SaveMemory) -> None:
        if change.events:
            database.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (self._events_kept,))
        for service in sorted({entry.service for entry in change.history}):
            database.execute(
                "DELETE FROM history WHERE service = ?1 AND id NOT IN "
                "(SELECT id FROM history WHERE service = ?1 ORDER BY id DESC LIMIT ?2)",
                (service, self._history_kept),
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise Retry(f"another program holds the state file {self._path}: {error}", LOCK_WAIT) from error
            raise Stalled(f"the state file {self._path} cannot be read or written: {error}. {MEND}") from error
        except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
            raise
        except sqlite3.DatabaseError as error:
            self._close()
            raise Stalled(
                f"the state file {self._path} is damaged ({error}). Stop the daemon and restore the file (with its "
                "-wal file) from a backup, or move it aside to start with an empty memory"
            ) from error


def _set_up(database: sqlite3.Connection, path: Path) -> None:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    if version and application != APPLICATION_ID:
        raise Stalled(f"{path} is some other program's SQLite file: choose another folder with --state")
    if version > len(MIGRATIONS):
        raise Stalled(
            f"{path} was written by a newer Heliostat (schema {version}; this one knows up to {len(MIGRATIONS)}): "
            "start that version, or choose another folder with --state"
        )
    for step in range(version, len(MIGRATIONS)):
        with _transaction(database):
            for statement in filter(str.strip, MIGRATIONS[step].split(";")):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {step + 1}")


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; `IMMEDIATE`, so that a lock shows at once and not in the middle."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _add_events(database: sqlite3.Connection, events: tuple[Event, ...]) -> int:
    database.executemany(
        "INSERT INTO events (service, value) VALUES (?, ?)", [(event.service, to_json(event)) for event in events]
    )
    newest: int = database.execute("SELECT last_insert_rowid()").fetchone()[0] if events else 0
    return newest


def _events(database: sqlite3.Connection, service: str | None, since: int, limit: int) -> tuple[Event, ...]:
    order = "ASC" if since else "DESC"
    rows = database.execute(
        "SELECT id, value FROM events WHERE id > ?1 AND (?2 IS NULL OR service = ?2) "  # noqa: S608 (order: a constant)
        f"ORDER BY id {order} LIMIT ?3",
        (since, service, limit),
    ).fetchall()
    return tuple(replace(event, id=number) for number, event in _readable(Event, sorted(rows)))


def _history(database: sqlite3.Connection, service: str) -> tuple[HistoryEntry, ...]:
    rows = database.execute("SELECT id, value FROM history WHERE service = ? ORDER BY id DESC", (service,)).fetchall()
    return tuple(entry for _, entry in _readable(HistoryEntry, rows))


def _readable(kind: type[T], rows: list[tuple[int, str]]) -> Iterator[tuple[int, T]]:
    """Leave out what a newer version wrote in words unknown here: people read these, decisions do not."""
    for number, value in rows:
        with suppress(ValueError):
            yield number, from_json(kind, value)
