"""No test reads or fills the cache of whoever runs it. And nodes, for tests that need some."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loaders.safetensors import chunk_server
from tests.loading.servers import RangeServer
from tests.loading.shape import Shape
from tests.loading.swarming import HoldUp, Locked, Machine
from tests.unit.loaders.conftest import node_cache

__all__ = ["node_cache"]

CAP = 160 << 20


@pytest.fixture(scope="module")
def range_server(folder: Path) -> Iterator[RangeServer]:
    """An origin of what the module's `folder` holds."""
    with RangeServer(folder) as server:
        yield server


@pytest.fixture
def server(range_server: RangeServer) -> RangeServer:
    """It is quick and faultless, and has counted nothing, when a test begins."""
    range_server.shape(Shape())
    range_server.forget()
    return range_server


@pytest.fixture
def tracker() -> Locked:
    return Locked()


@pytest.fixture
def machines(tmp_path: Path, tracker: Locked) -> Iterator[list[Machine]]:
    made = [Machine(tmp_path, tracker, number, CAP) for number in range(3)]
    yield made
    for machine in made:
        machine.node.close()


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[HoldUp]:
    """Let a node's server accept and say nothing, send a beginning and nothing more, or send a trickle."""
    holding = HoldUp()
    monkeypatch.setattr(chunk_server.Handler, "do_GET", lambda handler: holding.get(handler))  # noqa: PLW0108  # a function, to be bound
    monkeypatch.setattr(chunk_server.os, "sendfile", holding.send)
    yield holding
    holding.over.set()
