"""Ranks of a tensor-parallel model load their parts by `load_file`, through the node's cache and from peers."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from loaders.safetensors import cache
from loaders.safetensors.torch import load_file, load_into
from tests.loading import files
from tests.loading.needs_torch import torch
from tests.loading.reference import bytes_of
from tests.loading.servers import RangeServer
from tests.loading.swarming import Machine

RULES: Mapping[str, int | None] = {"*norm.weight": None, "embed.weight": 0, "*.down.weight": 1, "*.o.weight": 1, "*": 0}
RANKS = 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    files.write_file(path, files.transformer(layers=2, width=256, dtype="F32", vocabulary=16384))
    return path


@pytest.fixture(scope="module")
def folder(path: Path) -> Path:
    return path.parent


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """Lets loads of this process be those of one machine."""

    def be(machine: Machine) -> None:
        monkeypatch.setattr(cache, "node_store", lambda _: machine.store)
        monkeypatch.setattr(cache, "this_node", lambda _: machine.node)

    return be


def part(url: str, rank: int) -> dict[str, torch.Tensor]:
    return load_file(url, shard=(rank, RANKS, RULES), timeout=60)


def expected(path: Path, rank: int) -> dict[str, torch.Tensor]:
    return load_file(str(path), shard=(rank, RANKS, RULES))


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape, name
        assert bytes_of(found[name]) == bytes_of(tensor), name


def test_a_rank_s_part_comes_from_a_peer_that_has_the_file(
    machines: list[Machine], server: RangeServer, path: Path, on: Callable[[Machine], None]
) -> None:
    url = server.url(path.name)
    on(machines[0])
    load_file(url)
    server.forget()
    on(machines[1])
    wanted = expected(path, 1)
    assert_equal(part(url, 1), wanted)
    needed = sum(tensor.nbytes for tensor in wanted.values())
    # The origin gives the beginning, and what takes long while nothing else is left to begin.
    assert server.counters().body <= 128 * 1024 + 1 + 0.02 * needed
    assert machines[0].sent <= 1.06 * needed


def test_ranks_of_two_nodes_read_about_what_they_need(
    machines: list[Machine], server: RangeServer, path: Path, on: Callable[[Machine], None]
) -> None:
    """Of what one node has read, the other takes what was kept: chunks that a rank wanted whole."""
    url, size = server.url(path.name), path.stat().st_size
    opening = 128 * 1024 + 1
    for number, machine in enumerate(machines[:2]):
        on(machine)
        server.forget()
        with concurrent.futures.ThreadPoolExecutor(RANKS) as pool:
            for rank, found in enumerate(pool.map(lambda rank: part(url, rank), range(RANKS))):
                assert_equal(found, expected(path, rank))
        read = server.counters().body
        assert read <= 1.05 * size + RANKS * opening
        if number:
            kept = machines[0].store.kept()[0].present
            assert kept > 0.4 * size
            assert read <= 1.05 * (size - kept) + RANKS * opening


def test_a_rank_s_module_is_loaded_through_the_cache(
    machines: list[Machine], server: RangeServer, path: Path, on: Callable[[Machine], None]
) -> None:
    on(machines[0])
    with torch.device("meta"):
        module = torch.nn.Module()
        module.embed = torch.nn.Embedding(16384 // RANKS, 256)
    load_into(module, server.url(path.name), tensors="embed.weight", shard=(3, RANKS, {"embed.weight": 0}))
    assert bytes_of(module.embed.weight) == bytes_of(expected(path, 3)["embed.weight"])
