"""Staging by its one function; with Ray: tests/e2e/test_weights.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from loaders.safetensors.errors import LoadError
from loaders.safetensors.stage import Staged, stage
from tests.loading.files import big, write_file
from tests.loading.servers import RangeServer


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


@pytest.mark.parametrize("nodes", ["all", [], ["f" * 56]])
def test_nodes_take_a_cluster_that_this_process_is_in(nodes: object) -> None:
    with pytest.raises(LoadError, match=r"before ray\.init\(\)"):
        stage("s3://models/w.safetensors", nodes=nodes)  # type: ignore[call-overload]
