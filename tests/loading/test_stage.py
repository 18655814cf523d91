"""Staging by its one function; with Ray: tests/e2e/test_weights.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loaders.safetensors import stage_nodes
from loaders.safetensors.errors import LoadError
from loaders.safetensors.stage import NodeStaged, Staged, stage
from tests.loading.files import big, write_file
from tests.loading.leaks import held, more_than
from tests.loading.servers import RangeServer
from tests.loading.shape import Shape


def test_without_nodes_it_is_this_one_and_says_how_far_it_is(tmp_path: Path) -> None:
    write_file(tmp_path / "w.safetensors", big(3 << 20))
    size = (tmp_path / "w.safetensors").stat().st_size
    told: list[tuple[int, int]] = []
    with RangeServer(tmp_path) as origin:
        staged = stage(origin.url("w.safetensors"), told=lambda done, of: told.append((done, of)))
        assert isinstance(staged, Staged)
        assert staged.size == size <= staged.fetched < 1.05 * size
        assert told[-1] == (size, size)
        assert stage(origin.url("w.safetensors")).fetched == 0


def test_what_is_on_this_machine_needs_no_staging(tmp_path: Path) -> None:
    write_file(tmp_path / "w.safetensors", big(1 << 20))
    with pytest.raises(LoadError, match="on this machine already"):
        stage(str(tmp_path / "w.safetensors"))


def test_one_that_takes_longer_than_it_may_ends(tmp_path: Path) -> None:
    write_file(tmp_path / "w.safetensors", big(4 << 20))
    with RangeServer(tmp_path, Shape(total_bandwidth=0.5e6)) as origin:
        began, before = time.monotonic(), held()
        with pytest.raises(LoadError, match=r"not staged after 1 s"):
            stage(origin.url("w.safetensors"), timeout=1)
        assert time.monotonic() - began < 5, "the file takes eight seconds"
        assert not more_than(before)


@pytest.mark.parametrize("nodes", ["all", [], ["f" * 56]])
def test_nodes_take_a_cluster_that_this_process_is_in(nodes: object) -> None:
    with pytest.raises(LoadError, match=r"before ray\.init\(\)"):
        stage("s3://models/w.safetensors", nodes=nodes)  # type: ignore[call-overload]


@pytest.mark.parametrize(("nodes", "asked"), [("all", None), (["b", "a"], ["b", "a"]), ("a", ["a"]), ([], [])])
def test_nodes_are_told_of_together_and_one_that_fails_spoils_nothing(
    monkeypatch: pytest.MonkeyPatch, nodes: object, asked: list[str] | None
) -> None:
    """The tasks are Ray's, and played here: what is tried is what the caller gets of them."""
    given: list[object] = []

    class Played:
        def __init__(self, *arguments: object) -> None:
            given.extend(arguments)

        def results(self) -> Iterator[NodeStaged | None]:
            yield None
            yield NodeStaged(node="b", uri="s3://m/w", error="forbids it (403)")
            yield NodeStaged(node="a", uri="s3://m/w", staged=Staged(uri="s3://m/w", size=9, fetched=9, seconds=1.0))

        def progress(self) -> dict[str, int]:
            return {"done": 9, "size": 18, "nodes": 2, "ended": 2}

    monkeypatch.setattr(stage_nodes.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(stage_nodes, "_Staging", Played)
    told: list[tuple[int, int]] = []
    found = stage("s3://m/w", nodes, region="eu", timeout=5, told=lambda *far: told.append(far))  # type: ignore[call-overload]
    assert [(each.node, each.staged is not None) for each in found] == [("a", True), ("b", False)]
    assert given == [["s3://m/w"], asked, "eu", 5]
    assert told == [(9, 18)] * 3
