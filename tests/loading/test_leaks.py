"""A process that loads again and again holds no more in the end than in the beginning."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

import tests.loading.needs_torch  # noqa: F401

# isort: split
from loaders.safetensors.progress import Progress
from loaders.safetensors.torch import load_file, stream
from tests.loading import files
from tests.loading.leaks import held, more_than
from tests.loading.servers import RangeServer
from tests.loading.shape import Shape

MiB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    files.write_file(folder / "model.safetensors", files.transformer(layers=2, width=256))
    even = {f"t{number:02}": files.Kind(dtype="U8", shape=(2 * MiB,)) for number in range(20)}
    files.write_file(folder / "big.safetensors", even)
    return folder


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("way", ["local", "http", "http through the cache", "parts through the cache"])
def test_a_hundred_loads_leak_nothing(folder: Path, server: RangeServer, way: str) -> None:
    """The cache has everything after the first of them, so that what is tried is its reading."""
    path = folder / "model.safetensors"
    uri = str(path) if way == "local" else server.url(path.name)
    cache, tensors = "node" if "cache" in way else None, "layers.1.*" if "parts" in way else None

    def load() -> None:
        load_file(uri, cache=cache, tensors=tensors)

    for _ in range(5):
        load()
    before, memory = held(), resident()
    for _ in range(100):
        load()
    gc.collect()
    assert resident() - memory < 2 * path.stat().st_size
    assert not more_than(before)


def test_contents_that_come_and_go_leak_nothing(
    folder: Path, server: RangeServer, node_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for two of them, so each load fetches its own and evicts another one's."""
    size = (folder / "model.safetensors").stat().st_size
    monkeypatch.setenv("HELIOSTAT_CACHE_BYTES", str(2 * size + MiB))
    load_file(server.url("model.safetensors?version=first"))
    before, memory, kept = held(), resident(), len(list(node_cache.iterdir()))
    for number in range(30):
        load_file(server.url(f"model.safetensors?version={number}"))
    assert resident() - memory < 2 * size
    assert not more_than(before)
    assert len(list(node_cache.iterdir())) <= kept + 1


def test_what_fails_leaks_nothing_either(folder: Path, server: RangeServer) -> None:
    def break_off(report: Progress) -> None:
        if report.done:
            raise ZeroDivisionError

    def fail(cache: str | None) -> None:
        with pytest.raises(ZeroDivisionError):
            load_file(server.url("big.safetensors"), cache=cache, progress=break_off)  # type: ignore[arg-type]

    server.shape(Shape(bandwidth=20e6))
    fail("node")
    before = held()
    for number in range(10):
        fail("node" if number % 2 else None)
    assert not more_than(before)


def test_streams_left_early_leak_nothing(folder: Path, server: RangeServer) -> None:
    def leave() -> None:
        next(stream(server.url("big.safetensors"), memory_limit=12 * MiB, cache=None))

    leave()
    before = held()
    for _ in range(10):
        leave()
    assert not more_than(before)
