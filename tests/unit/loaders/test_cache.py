"""The node's cache: what it keeps is right, is kept once, and stays while it is read."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loaders.safetensors import cache_claims, cache_content, cache_entry, cache_read
from loaders.safetensors.cache import through_cache
from loaders.safetensors.cache_content import SMALLEST_CHUNK_SIZE, Content, pieces
from loaders.safetensors.cache_read import ReadThrough
from loaders.safetensors.cache_settings import cache_settings, parse_bytes
from loaders.safetensors.cache_store import Store
from loaders.safetensors.checkpoint import read_header
from loaders.safetensors.errors import InvalidFile, LoadCancelled
from loaders.safetensors.sources.ahead import Touch, as_it_is
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.streams import Streams

CHUNK = SMALLEST_CHUNK_SIZE
SIZE = 3 * CHUNK + 12345
BYTES = random.Random(1).randbytes(SIZE)
CONTENT = Content(uri="https://models.example.com/a.safetensors", etag='"1"', size=SIZE)


class Counting:
    """An origin in memory that counts what it gives."""

    uri, size, version = CONTENT.uri, SIZE, CONTENT.etag
    streams = Streams(first=4, most=4)

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def close(self) -> None:
        """Nothing is held."""

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        self.reads.append((offset, len(buffer)))
        buffer[:] = BYTES[offset : offset + len(buffer)]

    @property
    def given(self) -> int:
        return sum(length for _, length in self.reads)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", 100 * CHUNK)


def opened(store: Store, origin: Counting, content: Content = CONTENT) -> ReadThrough:
    entry = store.open(content, content.size)
    assert entry is not None
    return ReadThrough(store, entry, origin)


def read(source: ReadThrough, offset: int, length: int) -> bytes:
    into = memoryview(bytearray(length))
    source.read_into(offset, into, Interrupt())
    return bytes(into)


def read_all(store: Store, origin: Counting, content: Content = CONTENT) -> bytes:
    source = opened(store, origin, content)
    found = read(source, 0, content.size)
    source.close()
    return found


def test_the_second_read_needs_no_origin(store: Store) -> None:
    first, second = Counting(), Counting()
    assert read_all(store, first) == BYTES
    assert read_all(store, second) == BYTES
    assert (first.given, second.given) == (SIZE, 0)


def test_memory_is_asked_for_by_whoever_fills_it_and_for_its_part_of_the_buffer(store: Store) -> None:
    class Touching(Counting):
        def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
            touch(0, len(buffer))
            super().read_into(offset, buffer, interrupt)

    parts = [(start, min(SIZE, start + CHUNK)) for start in range(0, SIZE, CHUNK)]
    for _ in ("from the origin", "from the cache"):
        source, touched, into = opened(store, Touching()), list[tuple[int, int]](), memoryview(bytearray(SIZE))
        source.read_into(0, into, Interrupt(), lambda start, stop, to=touched: to.append((start, stop)))
        source.close()
        assert into == BYTES
        assert touched == parts


def test_memory_for_what_another_node_sends_is_there_before_it_comes(store: Store) -> None:
    touched: list[tuple[int, int]] = []

    class Neighbour:
        def read(self, chunk: int, start: int, into: memoryview, interrupt: Interrupt) -> bool:
            assert touched == [(0, len(into))]
            into[:] = BYTES[chunk * CHUNK + start : chunk * CHUNK + start + len(into)]
            return True

        def close(self) -> None:
            """Nothing is held."""

    source, into = opened(store, Counting()), memoryview(bytearray(50))
    source._neighbours = Neighbour()
    source.read_into(100, into, Interrupt(), lambda start, stop: touched.append((start, stop)))
    source.close()
    assert into == BYTES[100:150]


def test_another_version_of_the_object_is_another_content(store: Store) -> None:
    read_all(store, Counting())
    origin = Counting()
    read_all(store, origin, Content(uri=CONTENT.uri, etag='"2"', size=SIZE))
    assert origin.given == SIZE


def test_signatures_and_passwords_are_neither_kept_nor_told_apart(store: Store) -> None:
    signed = Content(uri="https://me:pw@models.example.com/a.safetensors?sig=abc", etag='"1"', size=SIZE)
    assert signed.key == CONTENT.key
    read_all(store, Counting(), signed)
    assert [kept.content.uri for kept in store.kept()] == [CONTENT.uri]
    assert not [path for path in store.folder.rglob("*.json") if "pw" in path.read_text() or "abc" in path.read_text()]


def test_a_partial_load_fetches_and_keeps_no_more_than_it_needs(store: Store) -> None:
    origin = Counting()
    source = opened(store, origin)
    assert read(source, 100, 50) == BYTES[100:150]
    assert read(source, CHUNK - 10, 20) == BYTES[CHUNK - 10 : CHUNK + 10]
    assert origin.given == 70
    assert store.kept()[0].present == 0
    source.close()


def test_chunks_that_are_wanted_in_parts_are_fetched_once(store: Store) -> None:
    origin = Counting()
    source = opened(store, origin)
    source.expect([(100, CHUNK)])
    half = CHUNK // 2
    assert read(source, half, 10) == BYTES[half : half + 10]
    assert read(source, 100, half) == BYTES[100 : 100 + half]
    assert origin.reads == [(0, CHUNK)]
    source.close()


@pytest.mark.parametrize("damage", ["flip", "zeros", "short", "torn record", "record of another chunk"])
@pytest.mark.parametrize("part", [False, True])
def test_damage_is_found_and_mended(store: Store, damage: str, part: bool) -> None:
    read_all(store, Counting())
    folder = store.folder / CONTENT.key
    with (folder / "data").open("r+b") as data, (folder / "records").open("r+b") as records:
        if damage == "flip":
            data.seek(CHUNK + 77)
            data.write(bytes([BYTES[CHUNK + 77] ^ 1]))
        if damage == "zeros":
            data.seek(CHUNK)
            data.write(bytes(4096))
        if damage == "short":
            data.truncate(CHUNK + 5)
        if damage == "torn record":
            records.seek(16 + 8)
            records.write(bytes(8))
        if damage == "record of another chunk":
            record = os.pread(records.fileno(), 16, 0)
            records.seek(16)
            records.write(record)
    origin = Counting()
    source = opened(store, origin)
    source.expect([(0, SIZE)])
    start, length = (CHUNK + 1000, 4000) if part else (CHUNK, CHUNK)
    assert read(source, start, length) == BYTES[start : start + length]
    assert origin.reads == [(CHUNK, CHUNK)]
    source.close()
    assert read_all(store, Counting()) == BYTES


def test_a_chunk_of_another_is_waited_for_and_not_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_read, "PATIENCE", 0.05)
    holder, origin = opened(store, Counting()), Counting()
    reader = opened(store, origin)
    with holder._entry.claim(0) as claimed:
        assert claimed
        assert read(reader, 0, CHUNK) == BYTES[:CHUNK]
    assert origin.given == CHUNK
    assert store.kept()[0].present == 0, "what is read past a claim is not written under it"


def test_waiting_ends_when_the_load_is_cancelled(store: Store) -> None:
    holder, reader, interrupt = opened(store, Counting()), opened(store, Counting()), Interrupt()
    threading.Timer(0.05, interrupt.fire, [LoadCancelled("enough")]).start()
    with holder._entry.claim(0), pytest.raises(LoadCancelled):
        reader.read_into(0, memoryview(bytearray(CHUNK)), interrupt)


def test_a_second_try_of_the_same_read_goes_past_the_first(store: Store) -> None:
    class Slow(Counting):
        def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
            super().read_into(offset, buffer, interrupt, touch)
            if len(self.reads) == 1:
                begun.set()
                assert go_on.wait(10)

    begun, go_on = threading.Event(), threading.Event()
    source = opened(store, Slow())
    first = threading.Thread(target=read, args=(source, 0, CHUNK))
    first.start()
    assert begun.wait(10)
    assert read(source, 0, CHUNK) == BYTES[:CHUNK]
    go_on.set()
    first.join()
    source.close()


def test_an_origin_that_fails_leaves_nothing(store: Store) -> None:
    class Failing(Counting):
        def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
            buffer[: len(buffer) // 2] = b"x" * (len(buffer) // 2)
            raise ConnectionResetError

    source = opened(store, Failing())
    with pytest.raises(ConnectionResetError):
        read(source, 0, CHUNK)
    source.close()
    assert store.kept()[0].present == 0
    assert read_all(store, Counting()) == BYTES


def small(number: int, chunks: int = 1) -> Content:
    return Content(uri=f"https://models.example.com/{number}", etag='"1"', size=chunks * CHUNK)


def fill(store: Store, content: Content) -> None:
    entry = store.open(content, content.size)
    assert entry is not None
    with entry:
        for chunk in range(content.chunks):
            entry.write(chunk, memoryview(bytes(content.length_of(chunk))))


def uris(store: Store) -> set[str]:
    return {kept.content.uri[-1] for kept in store.kept()}


def used(store: Store, content: Content, at: int) -> None:
    os.utime(store.folder / content.key / "lease", (at, at))


def test_the_least_recently_used_goes_first_and_the_cap_holds(tmp_path: Path) -> None:
    store = Store(tmp_path, 3 * CHUNK)
    for number in range(3):
        fill(store, small(number))
        used(store, small(number), 1000 + number)
    fill(store, small(0))  # used again
    fill(store, small(3))
    assert uris(store) == {"0", "2", "3"}
    fill(store, small(4, chunks=3))
    assert uris(store) == {"4"}
    assert store.open(small(5, chunks=4), 4 * CHUNK) is None
    assert uris(store) == {"4"}, "what can never fit evicts nothing"


def test_what_is_read_is_not_evicted(tmp_path: Path) -> None:
    store = Store(tmp_path, 2 * CHUNK)
    fill(store, small(0))
    reading = store.open(small(0), CHUNK)
    assert reading is not None
    assert store.open(small(1, chunks=2), 2 * CHUNK) is None
    assert not store.remove(small(0).key)
    assert store.kept()[0].in_use
    reading.close()
    fill(store, small(1, chunks=2))
    assert uris(store) == {"1"}
    assert store.remove(small(1, chunks=2).key)
    assert not store.kept()
    assert [item.name for item in tmp_path.iterdir()] == ["lock"]


def test_a_part_takes_room_for_a_part(tmp_path: Path) -> None:
    store = Store(tmp_path, 2 * CHUNK)
    whole = small(0, chunks=50)
    entry = store.open(whole, CHUNK)
    assert entry is not None
    entry.close()
    fill(store, small(1))
    assert uris(store) == {"0", "1"}


def test_what_a_crash_left_of_an_eviction_is_swept(store: Store) -> None:
    left = store.folder / f"leaving-{small(1).key}-1"
    left.mkdir()
    (left / "data").write_bytes(b"x")
    fill(store, small(0))
    store.remove(small(0).key)
    assert not list(store.folder.glob("leaving-*"))


def test_what_others_keep_in_the_folder_is_never_touched(tmp_path: Path) -> None:
    names = ["models", "leaving-home", "0" * 32]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "theirs").write_bytes(b"x")
    store = Store(tmp_path, 2 * CHUNK)
    for number in range(4):
        fill(store, small(number))
    assert uris(store) == {"2", "3"}
    assert not store.remove("models")
    assert not store.remove("0" * 32)
    store.make_room(10 * CHUNK, small(9))
    for name in names:
        assert [item.name for item in (tmp_path / name).iterdir()] == ["theirs"]


class Lying(Counting):
    """An origin of a large object that is no file of weights."""

    size = 8 * SIZE

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        buffer[:] = b"<" * len(buffer)


def test_what_turns_out_to_be_no_weights_takes_no_room_and_evicts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "cache", 8 * SIZE)
    monkeypatch.setattr("loaders.safetensors.cache.node_store", lambda _: store)
    read_all(store, Counting())
    source = through_cache("http://there/lie", Lying, Interrupt())
    assert isinstance(source, ReadThrough)
    with pytest.raises(InvalidFile):
        read_header(source, Interrupt())
    source.close()
    assert [kept.content for kept in store.kept()] == [CONTENT]
    assert not list(store.folder.glob("leaving-*"))
    assert read_all(store, Counting()) == BYTES

    source = through_cache("http://there/lie", Lying, Interrupt())
    assert isinstance(source, ReadThrough)
    source.expect([(0, source.size)])
    assert source.keeps
    assert [kept.room for kept in store.kept()] == [8 * SIZE]
    source.close()


def test_what_would_not_make_enough_room_is_not_evicted(tmp_path: Path) -> None:
    store = Store(tmp_path, 3 * CHUNK)
    for number in range(3):
        fill(store, small(number))
    reading = store.open(small(0), CHUNK)
    assert reading is not None
    with reading:
        assert store.open(small(4, chunks=3), 3 * CHUNK) is None
    assert uris(store) == {"0", "1", "2"}


def test_the_last_used_version_of_a_uri_is_known_first(store: Store) -> None:
    older, newer = small(0), Content(uri=small(0).uri, etag='"2"', size=CHUNK)
    for content, at in ((newer, 2000), (older, 1000)):
        fill(store, content)
        used(store, content, at)
    assert store.known(small(0).uri + "?X-Amz-Signature=1&X-Amz-Expires=2") == [newer, older]
    assert store.known(small(0).uri + "?f=a") == [], "what no signature explains is another object"


def test_the_query_chooses_the_object_and_is_not_shown() -> None:
    url = "https://models.example.com/get"
    one, two = (Content(uri=f"{url}?f={name}&sig={name}", etag='"1"', size=5) for name in ("alpha", "beta"))
    assert one.key != two.key
    assert one.key == Content(uri=f"{url}?sig=other&se=2030&f=alpha", etag='"1"', size=5).key
    assert Content(uri=f"{url}?sp=a", etag='"1"', size=5).key != Content(uri=url, etag='"1"', size=5).key, "unsigned"
    assert "alpha" not in repr(one)
    assert one.uri == url


def test_a_closed_entry_reads_and_writes_nothing_more(store: Store, tmp_path: Path) -> None:
    fill(store, CONTENT)
    entry = store.open(CONTENT, SIZE)
    assert entry is not None
    with entry._open():
        entry.close()
        os.fstat(entry.descriptor())  # open for who is in the middle of it
    entry.close()
    with (tmp_path / "other").open("wb"):  # takes one of the numbers
        assert not entry.read(0, 0, memoryview(bytearray(CHUNK)))
        with pytest.raises(OSError, match="closed"):
            entry.write(0, memoryview(BYTES[:CHUNK]))
        with entry.claim(0) as claimed:
            assert not claimed
    assert (tmp_path / "other").read_bytes() == b""


def test_a_disk_that_fails_does_not_end_the_load(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    read_all(store, Counting())
    origin = Counting()
    source = opened(store, origin)
    for name in ("preadv", "pwrite"):
        monkeypatch.setattr(cache_entry.os, name, failing)
    assert read(source, 0, SIZE) == BYTES
    assert origin.given == SIZE
    source.close()


def test_a_forked_child_keeps_nothing_locked(store: Store) -> None:
    entry = store.open(small(0), CHUNK)
    assert entry is not None
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        entry.close()
        assert store.remove(small(0).key)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_pieces_cover_a_range_once() -> None:
    found = list(pieces(CHUNK - 3, CHUNK + 6, CHUNK))
    assert [(piece.chunk, piece.start, piece.at, piece.length) for piece in found] == [
        (0, CHUNK - 3, 0, 3),
        (1, 0, 3, CHUNK),
        (2, 0, CHUNK + 3, 3),
    ]
    assert cache_content.Content(uri="u", etag="e", size=0).chunks == 0


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    given = cache_settings({"HELIOSTAT_CACHE_DIR": str(tmp_path / "x"), "HELIOSTAT_CACHE_BYTES": "1.5G"})
    assert (given.folder, given.cap) == (tmp_path / "x", 3 << 29)
    assert cache_settings({"XDG_CACHE_HOME": str(tmp_path)}).folder == tmp_path / "heliostat" / "weights"
    assert parse_bytes("64GiB") == 64 << 30
    with pytest.raises(ValueError, match="HELIOSTAT_CACHE_BYTES: 'lots' is no number of bytes"):
        cache_settings({"HELIOSTAT_CACHE_DIR": str(tmp_path), "HELIOSTAT_CACHE_BYTES": "lots"})


def fetched_by_two(store: Store) -> int:
    """Let two readers, as two processes would be, read everything at once from a slow origin."""

    class Slow(Counting):
        def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
            super().read_into(offset, buffer, interrupt, touch)
            interrupt.wait(0.02)

    origins = [Slow(), Slow()]
    sources = [opened(store, origin) for origin in origins]
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(lambda source: read(source, 0, SIZE), sources)) == {BYTES}
    for source in sources:
        source.close()
    return sum(origin.given for origin in origins)


def test_two_readers_at_once_fetch_each_byte_once(store: Store) -> None:
    assert fetched_by_two(store) == SIZE


def test_without_claims_they_would_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_claims, "lock_byte", lambda *_: None)
    assert fetched_by_two(store) > SIZE


def test_without_checksums_damage_would_be_handed_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_entry.xxhash, "xxh3_64_intdigest", lambda *_, **__: 1)
    read_all(store, Counting())
    with (store.folder / CONTENT.key / "data").open("r+b") as data:
        data.write(b"wrong")
    assert read_all(store, Counting()) != BYTES
