"""Ports: named when they are taken, never swapped silently but for Ray's own dashboard."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from reconciler.demo import options
from reconciler.demo.options import Ports, claim, free_port
from reconciler.errors import Stalled


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_base_gives_three_ports_in_a_row() -> None:
    assert Ports.counted_from(9000) == Ports(gateway=9000, page=9001, ray=9002)


def test_free_ports_are_claimed_as_they_are() -> None:
    ports = Ports(gateway=free_port(), page=free_port(), ray=free_port())

    assert claim(ports) == ports


@pytest.mark.parametrize("use", ["gateway", "page", "ray"])
def test_a_taken_port_is_named_with_its_use_and_a_way_out(taken: int, use: str) -> None:
    ports = Ports(**{name: free_port() for name in ("gateway", "page", "ray")} | {use: taken})

    with pytest.raises(Stalled) as refused:
        claim(ports)

    assert str(taken) in refused.value.reason
    assert "--port-base" in refused.value.reason


def test_rays_usual_port_gives_way_to_a_cluster_that_runs_already(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "RAY_PORT", taken)
    ports = Ports(gateway=free_port(), page=free_port(), ray=taken)

    assert claim(ports).ray not in {0, taken}
