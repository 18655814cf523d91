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
from pathlib import Path

import pytest

from loaders.safetensors.cache_content import SMALLEST_CHUNK_SIZE
from loaders.safetensors.cache_store import Store
from loaders.safetensors.errors import SourceFailed, SourceUnreachable
from loaders.safetensors.sources.http import FIRST_READ
from tests.loading.cache_reader import load
from tests.loading.servers import ROOT, RangeServer
from tests.loading.shape import Shape

CHUNK = SMALLEST_CHUNK_SIZE
SIZE = 15 * CHUNK + 4321


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(7).randbytes(SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    folder = tmp_path_factory.mktemp("origin")
    (folder / "w").write_bytes(content)
    return folder


def reader(server: RangeServer, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.loading.cache_reader", server.url("w")],
        cwd=ROOT,
        env=os.environ | {"HELIOSTAT_CACHE_DIR": str(cache), "HELIOSTAT_CACHE_BYTES": "1G"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_four_processes_fetch_each_byte_once(server: RangeServer, tmp_path: Path, content: bytes) -> None:
    server.shape(Shape(first_byte=0.02))
    readers = [reader(server, tmp_path) for _ in range(4)]
    assert {process.communicate(timeout=60)[0].strip() for process in readers} == {hashlib.sha256(content).hexdigest()}
    assert server.counters().body <= 1.05 * SIZE


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_killed_at_any_moment_a_reader_leaves_nothing_wrong(
    server: RangeServer, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, kills: int
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
        assert server.counters().body <= SIZE + 6 * CHUNK + 2 * (FIRST_READ + 1), (
            "at most what the victim had in flight is fetched again"
        )
        assert_all_there(server, cache, content, monkeypatch)
        shutil.rmtree(cache)
    assert caught >= kills / 2, "most victims must have been alive when they were killed"


def test_a_stopped_reader_is_stood_in_for_and_harms_nobody_when_it_goes_on(
    server: RangeServer, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.shape(Shape(first_byte=0.5))
    expected = hashlib.sha256(content).hexdigest()
    stopped = reader(server, tmp_path)
    wait_for_requests(server, 4, stopped)
    stopped.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    others = [reader(server, tmp_path) for _ in range(2)]
    assert {process.communicate(timeout=60)[0].strip() for process in others} == {expected}
    assert time.monotonic() - began < 25, "and not a minute for each of its chunks"
    assert Store(tmp_path, 1 << 30).kept()[0].present == SIZE, "one of them keeps what it fetches instead"
    stopped.send_signal(signal.SIGCONT)
    assert stopped.communicate(timeout=60)[0].strip() == expected
    assert server.counters().body <= SIZE + 6 * CHUNK + 3 * (FIRST_READ + 1), "its own chunks are fetched twice, once"
    assert_all_there(server, tmp_path, content, monkeypatch)


def wait_for_requests(server: RangeServer, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while server.counters().requests < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_all_there(server: RangeServer, cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once more, from the cache alone."""
    before = server.counters().body
    monkeypatch.setenv("HELIOSTAT_CACHE_DIR", str(cache))
    assert load(server.url("w")) == content
    assert server.counters().body - before <= FIRST_READ + 1, (
        "the beginning, and a byte that tells how far the origin is"
    )


def test_readers_keep_their_bytes_while_others_need_the_room(
    server: RangeServer, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three objects share a cache with room for two: loads evict each other's all the time, and all are right."""
    monkeypatch.setenv("HELIOSTAT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HELIOSTAT_CACHE_BYTES", str(2 * SIZE))
    for name in ("w1", "w2"):
        (server.folder / name).write_bytes(content)

    def go(number: int) -> None:
        source = random.Random(number)
        for _ in range(6):
            assert load(server.url(source.choice(["w", "w1", "w2"])), threads=2) == content

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(go, range(2)))
    kept = Store(tmp_path, 2 * SIZE).kept()
    assert len(kept) == 2
    assert sum(item.room for item in kept) <= 2 * SIZE


def test_what_is_here_in_full_needs_no_origin(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaders.safetensors.sources.http.MOST_TRIES", 2)
    monkeypatch.setenv("HELIOSTAT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "w").write_bytes(content)
    (tmp_path / "never-loaded").write_bytes(content)
    with RangeServer(tmp_path) as server:
        assert load(server.url("w")) == content
        (tmp_path / "w").write_bytes(content[::-1])
        assert load(server.url("w")) == content[::-1], "a replaced object is loaded anew"
        server.stop()
        assert load(server.url("w")) == content[::-1]
        with pytest.raises(SourceUnreachable):
            load(server.url("never-loaded"))


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_an_origin_that_refuses_is_believed_though_everything_is_here(
    server: RangeServer, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Who may read it no more, or what was withdrawn, is not read from the cache instead."""
    monkeypatch.setenv("HELIOSTAT_CACHE_DIR", str(tmp_path / "cache"))
    assert load(server.url("w")) == content
    server.shape(Shape(refuse_every=1, refuse_status=status))
    with pytest.raises(SourceFailed, match=str(status)):
        load(server.url("w"))
