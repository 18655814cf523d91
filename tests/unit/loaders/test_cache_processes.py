"""The node's cache under real processes that share it, die in it and evict from it."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loaders.safetensors.cache_content import SMALLEST_CHUNK_SIZE, Content
from loaders.safetensors.cache_store import Store
from tests.loading.cache_reader import load
from tests.loading.servers import ROOT, RangeServer
from tests.loading.shape import Shape

CHUNK = SMALLEST_CHUNK_SIZE
SIZE = 15 * CHUNK + 4321


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(7).randbytes(SIZE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Iterator[RangeServer]:
    folder = tmp_path_factory.mktemp("origin")
    (folder / "w").write_bytes(content)
    with RangeServer(folder) as running:
        yield running


def reader(server: RangeServer, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.loading.cache_reader", server.url("w"), "e", str(SIZE)],
        cwd=ROOT,
        env=os.environ | {"HELIOSTAT_CACHE_DIR": str(cache), "HELIOSTAT_CACHE_BYTES": "1G"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_four_processes_fetch_each_byte_once(server: RangeServer, tmp_path: Path, content: bytes) -> None:
    server.shape(Shape(first_byte=0.02))
    server.forget()
    readers = [reader(server, tmp_path) for _ in range(4)]
    assert {process.communicate(timeout=60)[0].strip() for process in readers} == {hashlib.sha256(content).hexdigest()}
    assert server.counters().body <= 1.05 * SIZE


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_killed_at_any_moment_a_reader_leaves_nothing_wrong(
    server: RangeServer, tmp_path: Path, content: bytes, kills: int
) -> None:
    """The ones that stay share the cache with the killed one, and take over what it had begun."""
    source = random.Random(kills)
    server.shape(Shape(first_byte=0.005, bandwidth=400e6))
    expected = hashlib.sha256(content).hexdigest()
    caught = 0
    for number in range(kills):
        cache = tmp_path / str(number)
        server.forget()
        victim, survivor = reader(server, cache), reader(server, cache)
        wait_for_requests(server, source.randint(1, 10), victim)
        time.sleep(source.random() * 0.02)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        assert survivor.communicate(timeout=60)[0].strip() == expected
        caught += victim.returncode == -signal.SIGKILL
        assert server.counters().body <= SIZE + 6 * CHUNK, "at most what the victim had in flight is fetched again"
        assert_all_there(cache, server, content)
        shutil.rmtree(cache)
    assert caught >= kills / 2, "most victims must have been alive when they were killed"


def wait_for_requests(server: RangeServer, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while server.counters().requests < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_all_there(cache: Path, server: RangeServer, content: bytes) -> None:
    """Read once more, from the cache alone."""
    before = server.counters().body
    assert load(Store(cache, 1 << 30), Content(uri=server.url("w"), etag="e", size=SIZE)) == content
    assert server.counters().body == before


def test_readers_keep_their_bytes_while_others_need_the_room(
    server: RangeServer, tmp_path: Path, content: bytes
) -> None:
    """Three versions share a cache with room for two: loads evict each other's all the time, and all are right."""
    server.shape(Shape())
    store = Store(tmp_path, 2 * SIZE)
    versions = [Content(uri=server.url("w"), etag=f"v{number}", size=SIZE) for number in range(3)]

    def go(number: int) -> None:
        source = random.Random(number)
        for _ in range(6):
            assert load(store, source.choice(versions), threads=2) == content

    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # two readers always find room for their two contents
        list(pool.map(go, range(2)))
    assert sum(kept.room for kept in store.kept()) <= 2 * SIZE
