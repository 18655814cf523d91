"""The node's cache where there is little of something: room, memory, patience, and belief in what an origin says."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loaders.safetensors import cache, cache_entry
from loaders.safetensors.cache import through_cache
from loaders.safetensors.cache_content import Content
from loaders.safetensors.cache_entry import NoRoom
from loaders.safetensors.cache_read import ReadThrough
from loaders.safetensors.cache_store import Store
from loaders.safetensors.errors import LoadCancelled
from loaders.safetensors.sources.ahead import Touch, as_it_is
from loaders.safetensors.sources.interrupt import Interrupt
from tests.unit.loaders.test_cache import (
    BYTES,
    CHUNK,
    CONTENT,
    SIZE,
    Counting,
    fill,
    opened,
    read,
    read_all,
    small,
    uris,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", 100 * CHUNK)


def part(store: Store, content: Content, first: int, last: int) -> int:
    """Load chunks of a content, as a partial load does; return how many bytes of it are there then."""
    entry = store.open(content, 0)
    assert entry is not None
    source = ReadThrough(store, entry, Counting())
    source.expect([(first * CHUNK, last * CHUNK), (0, 100)])
    read(source, first * CHUNK, (last - first) * CHUNK)
    source.close()
    return next(kept.present for kept in store.kept() if kept.content.key == content.key)


def test_a_partial_load_takes_room_for_what_it_keeps(tmp_path: Path) -> None:
    store = Store(tmp_path, 3 * CHUNK)
    fill(store, small(1))
    assert part(store, CONTENT, 0, 1) == CHUNK
    assert part(store, CONTENT, 0, 1) == CHUNK, "the same again takes no more"
    assert uris(store) == {"1", "s"}
    assert part(store, CONTENT, 1, 3) == 3 * CHUNK
    assert uris(store) == {"s"}, "rooms of parts add up, and others go when there is none left"
    assert sum(kept.room for kept in store.kept()) <= store.cap
    entry, origin = store.open(CONTENT, 0), Counting()
    assert entry is not None
    source = ReadThrough(store, entry, origin)
    source.expect([(0, SIZE)])
    assert read(source, 0, SIZE) == BYTES
    source.close()
    assert origin.given == SIZE - 3 * CHUNK, "there is no room for the rest, and what is there is used"


def test_parts_of_two_processes_have_room_beside_each_other(tmp_path: Path) -> None:
    store = Store(tmp_path, 3 * CHUNK)
    opened = [store.open(CONTENT, 0) for _ in range(2)]
    assert store.reserve(CONTENT, 0b001)
    assert store.reserve(CONTENT, 0b010)
    assert store.reserve(CONTENT, 0b011)
    assert store.kept()[0].room == 2 * CHUNK
    assert store.reserve(CONTENT, 0b100)
    assert not store.reserve(CONTENT, 0b1000), "beyond the cap"
    for entry in opened:
        assert entry is not None
        entry.close()


def test_who_stopped_with_the_lock_in_hand_holds_up_no_load(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HELIOSTAT_CACHE_DIR", str(store.folder))
    descriptor = os.open(store.folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    interrupt = Interrupt()
    threading.Timer(0.2, interrupt.fire, [LoadCancelled("enough")]).start()
    began = time.monotonic()
    with pytest.raises(LoadCancelled):
        through_cache(CONTENT.uri, Counting, interrupt)
    assert time.monotonic() - began < 5
    monkeypatch.setattr(cache_entry, "LOCKED_FOR", 0.2)
    assert isinstance(through_cache(CONTENT.uri, Counting, Interrupt()), Counting)
    assert "another process holds the weight cache's lock" in caplog.text
    os.close(descriptor)
    source = through_cache(CONTENT.uri, Counting, Interrupt())
    assert isinstance(source, ReadThrough)
    source.close()


def test_a_content_whose_lease_is_held_for_long_is_loaded_without_the_cache(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_all(store, Counting())
    monkeypatch.setenv("HELIOSTAT_CACHE_DIR", str(store.folder))
    monkeypatch.setattr(cache_entry, "LOCKED_FOR", 0.2)
    descriptor = os.open(store.folder / CONTENT.key / "lease", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert isinstance(through_cache(CONTENT.uri, Counting, Interrupt()), Counting)
    os.close(descriptor)


@pytest.mark.parametrize("size", [2**44 + 1, 2**62])
def test_of_what_says_that_it_is_absurdly_large_nothing_is_made(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    """A sparse file of exabytes, and a record for each of its chunks, is more than a lie is worth."""
    monkeypatch.setattr("loaders.safetensors.cache.node_store", lambda _: store)
    origin = Counting()
    origin.size = size
    assert through_cache(CONTENT.uri, lambda: origin, Interrupt()) is origin
    assert store.kept() == []
    assert caplog.records == [], "nor tried, for some file systems would do it"


def test_on_a_full_disk_what_was_used_least_goes_before_anything_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, small(0))
    source = opened(store, Counting())
    write = source._entry.write

    def full(chunk: int, content: memoryview) -> int:
        if "0" in uris(store):
            raise NoRoom("no room left for the weight cache in /there: No space left on device")
        return write(chunk, content)

    monkeypatch.setattr(source._entry, "write", full)
    assert read(source, 0, SIZE) == BYTES
    source.close()
    [kept] = store.kept()
    assert (kept.content, kept.present) == (CONTENT, SIZE)


@pytest.mark.parametrize("version", ["", 'W/"1"'])
def test_what_has_no_version_or_a_weak_one_is_not_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Nobody could tell its old bytes from its new ones."""
    monkeypatch.setattr("loaders.safetensors.cache.node_store", lambda _: store)
    origin = Counting()
    origin.version = version
    assert through_cache(CONTENT.uri, lambda: origin, Interrupt()) is origin
    assert store.kept() == []


def test_readers_of_parts_take_memory_for_a_few_chunks_only(store: Store) -> None:
    fill(store, small(1, chunks=20))
    [content] = [kept.content for kept in store.kept()]
    entry = store.peek(content.key)
    assert entry is not None
    whole, lock, now, most = entry._fill, threading.Lock(), [0], [0]

    def slowly(chunk: int, start: int, into: memoryview, touch: Touch = as_it_is) -> bool:
        if len(into) < content.chunk_size:
            return whole(chunk, start, into, touch)
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        found = whole(chunk, start, into, touch)
        with lock:
            now[0] -= 1
        return found

    entry._fill = slowly  # type: ignore[method-assign]
    with entry, ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda chunk: entry.read(chunk, 5, memoryview(bytearray(10))), range(20)))
    assert 1 < most[0] <= cache_entry.CHECKED_AT_A_TIME


def test_a_full_disk_is_no_error_of_the_load(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise NoRoom("no room left for the weight cache in /there: No space left on device")

    origin = Counting()
    source = opened(store, origin)
    monkeypatch.setattr(source._entry, "write", full)
    assert read(source, 0, SIZE) == BYTES
    assert caplog.text.count("No space left on device") == 1
    source.close()


def test_a_full_disk_is_recognised(store: Store) -> None:
    entry = store.open(CONTENT, SIZE)
    assert entry is not None
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, entry.descriptor())
    os.close(full)
    with entry, pytest.raises(NoRoom, match="No space left"):
        entry.write(0, memoryview(BYTES[:CHUNK]))


def test_without_room_for_bookkeeping_the_origin_is_enough(
    node_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    origin = Counting()
    monkeypatch.setattr(Store, "_create", full)
    assert through_cache(CONTENT.uri, lambda: origin, Interrupt()) is origin
    monkeypatch.setattr(cache, "cache_settings", full)
    assert through_cache(CONTENT.uri, lambda: origin, Interrupt()) is origin
    assert caplog.text.count("No space left on device") == 2
