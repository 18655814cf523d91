"""What can be chosen about a demo, and the ports it needs."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import Stalled

HOST = "127.0.0.1"
RAY_PORT = 8265
REQUESTS_PER_SECOND = 20.0
"""Enough to see a 20% canary within a second; a third of what the sample service could take on two cores."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the demo listens, all on 127.0.0.1. `ray` 0 means any free port."""

    gateway: int = 8080
    page: int = 8484
    ray: int = RAY_PORT

    @classmethod
    def counted_from(cls, base: int) -> Ports:
        """Return three ports in a row: gateway, status page, Ray's dashboard."""
        return cls(gateway=base, page=base + 1, ray=base + 2)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of `heliostat demo`. `folder` None makes a temporary one, removed unless `keep`."""

    ports: Ports
    folder: Path | None = None
    keep: bool = False
    stay: bool = False
    """Stay up after the story, for the user to push to."""
    rate: float = REQUESTS_PER_SECOND
    placement: bool = False
    """Play the story about zones and nodes instead of that of a rollout."""

    @property
    def is_folder_temporary(self) -> bool:
        """Return whether the folder goes with the demo."""
        return self.folder is None and not self.keep


def claim(ports: Ports) -> Ports:
    """Return the ports with a free one for Ray's dashboard if its usual one is taken. Raises Stalled.

    The other two are what the user opens in a browser and sends requests to: they are never swapped silently.
    """
    wanted = {ports.gateway: "the gateway", ports.page: "the status page"}
    taken = [f"{port} (for {use})" for port, use in wanted.items() if not _is_free(port)]
    ray = ports.ray
    if not _is_free(ray):
        if ray == RAY_PORT:
            ray = free_port()
        else:
            taken.append(f"{ray} (for Ray's dashboard)")
    if taken:
        raise Stalled(
            f"taken on {HOST}: port {', '.join(taken)}. Stop what listens there, or use other ports: "
            "`heliostat demo --port-base 9000` takes 9000, 9001 and 9002 (`make demo ARGS='--port-base 9000'`)"
        )
    return Ports(gateway=ports.gateway, page=ports.page, ray=ray)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
