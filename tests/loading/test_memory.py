"""Host memory, and what is said where PyTorch is missing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loaders.safetensors import memory
from loaders.safetensors.memory import HUGE_PAGE, HostBlock, available

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def unknown_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_huge_pages_are_slow", memory.threading.Event())
    monkeypatch.setattr(memory, "_huge_pages_were_tried", memory.threading.Event())


@pytest.mark.parametrize("size", [0, 1, 4097, 3 * HUGE_PAGE + 5])
@pytest.mark.parametrize("slowest", [1.0, -1.0])
def test_touching_changes_nothing_and_reaches_no_further_than_the_block(
    monkeypatch: pytest.MonkeyPatch, size: int, slowest: float
) -> None:
    monkeypatch.setattr(memory, "SLOWEST_HUGE_PAGE", slowest)
    block = HostBlock(size)
    block.memory[:] = bytes(index % 251 for index in range(size))
    for start in range(0, size, 1_000_003):
        block.touch(start, min(size, start + 1_000_003))
    assert block.memory == bytes(index % 251 for index in range(size))


def test_small_pages_are_taken_once_a_huge_one_was_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SLOWEST_HUGE_PAGE", -1.0)
    advised: list[int] = []
    monkeypatch.setattr(memory, "_madvise", lambda _address, _size, advice: advised.append(advice) or 0)
    first = HostBlock(4 * HUGE_PAGE)
    assert advised == [], "a request is to be sent first"
    first.touch(0, HUGE_PAGE)
    HostBlock(4 * HUGE_PAGE).touch(0, HUGE_PAGE)
    assert advised == [memory._POPULATE_WRITE, memory._NO_HUGE_PAGES, memory._POPULATE_WRITE, memory._POPULATE_WRITE]


def test_one_thread_tries_huge_pages_while_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SLOWEST_HUGE_PAGE", -1.0)
    asked: list[int] = []
    others_can_begin, go_on = threading.Event(), threading.Event()

    def advise(_address: int, size: int, advice: int) -> int:
        if advice == memory._POPULATE_WRITE:
            asked.append(size)
            others_can_begin.set()
            assert go_on.wait(10)
        return 0

    monkeypatch.setattr(memory, "_madvise", advise)
    block = HostBlock(4 * HUGE_PAGE)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(block.touch, 0, HUGE_PAGE)
        assert others_can_begin.wait(10)
        others = [pool.submit(block.try_huge_pages), pool.submit(block.touch, HUGE_PAGE, 2 * HUGE_PAGE)]
        time.sleep(0.1)
        assert asked == [memory.PAGE]
        go_on.set()
        for done in (first, *others):
            done.result(10)
    assert sorted(asked) == [memory.PAGE, HUGE_PAGE, HUGE_PAGE]


def test_small_pages_are_asked_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    memory._huge_pages_are_slow.set()
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(memory, "_madvise", lambda _address, size, advice: asked.append((size, advice)) or 0)
    block = HostBlock(3 * HUGE_PAGE + 5)
    block.touch(HUGE_PAGE, 3 * HUGE_PAGE + 5)
    assert asked == [(size, memory._POPULATE_WRITE) for size in (HUGE_PAGE, HUGE_PAGE, memory.PAGE)]


def test_memory_that_the_kernel_does_not_hand_out_beforehand_comes_when_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(memory, "_madvise", lambda _address, size, _advice: asked.append(size) or -1)
    block = HostBlock(3 * HUGE_PAGE)
    block.try_huge_pages()
    asked.clear()
    block.touch(0, 3 * HUGE_PAGE)
    block.memory[:] = bytes(3 * HUGE_PAGE)
    assert asked == [HUGE_PAGE], "it is not asked again"


def test_memory_of_a_control_group_counts_its_page_cache_as_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 500\nactive_file 200\ninactive_file 100\n")
    assert memory._control_group(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._control_group(tmp_path) is None
    assert memory._control_group(tmp_path / "none") is None
    assert (available() or 0) > 0


def test_without_torch_the_import_says_what_is_missing() -> None:
    script = "import sys; sys.modules['torch'] = None; import loaders.safetensors.torch"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert "ImportError: loaders.safetensors.torch needs PyTorch" in done.stderr


def test_what_runs_on_nodes_imports_no_torch() -> None:
    script = (
        "import sys, loaders.safetensors.checkpoint, loaders.safetensors.fetch, loaders.safetensors.sources.opening\n"
        "import loaders.safetensors.plan, loaders.safetensors.layout, loaders.safetensors.progress\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
