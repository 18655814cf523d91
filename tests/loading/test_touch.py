"""Memory of a result is asked for in steps, wherever its bytes come from, and no byte of it that is not written."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from loaders.safetensors import memory
from loaders.safetensors.memory import HUGE_PAGE, HostBlock
from loaders.safetensors.sources.ahead import STEP
from loaders.safetensors.sources.wire import HEAD_READ
from loaders.safetensors.torch import load_file, stream
from tests.loading import files
from tests.loading.needs_torch import torch
from tests.loading.reference import assert_same, reference
from tests.loading.servers import RangeServer, s3_server

NAME = "big.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    files.write_file(folder / NAME, {**files.big(20 << 20), **files.many_dtypes()})
    return folder


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> dict[HostBlock, list[tuple[int, int]]]:
    """What memory of which block was asked for; before it is written."""
    found: dict[HostBlock, list[tuple[int, int]]] = {}
    original = HostBlock.touch

    def touch(block: HostBlock, start: int, stop: int) -> None:
        assert not any(block.memory[start + HEAD_READ : stop]), "what came with an answer's head is written at once"
        found.setdefault(block, []).append((start, stop))
        original(block, start, stop)

    monkeypatch.setattr(HostBlock, "touch", touch)
    return found


def is_each_byte_once(touched: dict[HostBlock, list[tuple[int, int]]]) -> bool:
    for block, parts in touched.items():
        parts.sort()
        assert parts[-1][1] == len(block.memory)
        assert parts[0][0] < 256, "in front of the first tensor is at most what puts it where the file has it"
        assert all(stop - start <= STEP for start, stop in parts)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))
    return bool(touched)


@pytest.mark.parametrize("cache", [None, "node"])
@pytest.mark.parametrize("place", ["path", "http"])
def test_each_byte_of_a_file_once(
    folder: Path, server: RangeServer, touched: dict[HostBlock, list[tuple[int, int]]], place: str, cache: str | None
) -> None:
    uri = str(folder / NAME) if place == "path" else server.url(NAME)
    for _ in ("fetched", "kept"):
        touched.clear()
        assert_same(load_file(uri, cache=cache), reference(folder / NAME))  # type: ignore[arg-type]
        assert is_each_byte_once(touched)


def test_each_byte_of_an_object_once(
    folder: Path, touched: dict[HostBlock, list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        uri = store.upload("weights", NAME, folder / NAME)
        assert_same(load_file(uri, cache=None), reference(folder / NAME))
    assert is_each_byte_once(touched)


def test_a_stream_asks_for_no_more_memory_than_it_may_take(
    folder: Path, server: RangeServer, touched: dict[HostBlock, list[tuple[int, int]]]
) -> None:
    even = {f"t{number:02}": files.Kind(dtype="U8", shape=(2 << 20,)) for number in range(24)}
    files.write_file(folder / "even.safetensors", even)
    loading = stream(server.url("even.safetensors"), cache=None, memory_limit=10 << 20)
    next(loading)
    assert sum(stop - start for parts in touched.values() for start, stop in parts) <= 10 << 20
    loading.close()


def test_what_is_cast_has_pages_of_the_kind_that_is_fast_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_huge_pages_are_slow", memory.threading.Event())
    monkeypatch.setattr(memory, "_huge_pages_were_tried", memory.threading.Event())
    monkeypatch.setattr(memory, "SLOWEST_HUGE_PAGE", -1.0)
    name = "floats.safetensors"
    files.write_file(folder / name, {"w": files.Kind(dtype="F32", shape=(2 * HUGE_PAGE,))})
    load_file(str(folder / name), dtype=torch.bfloat16)
    assert memory._huge_pages_are_slow.is_set()
