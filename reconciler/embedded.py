"""A local Ray cluster with zones: real raylets at distinct loopback addresses, for the demo and for tests.

    async with EmbeddedCluster(zones=("a", "b", "c")) as cluster:
        print(cluster.dashboard_url)

Ray runs in a child process in a session of its own. Everything that was started is gone afterwards, also
when this process is interrupted or killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reconciler.embedded_processes import MARK, end_members
from reconciler.errors import Stalled

ZONE_LABEL = "ray.io/availability-zone"

FIRST_HOST = 10
"""The head's last number. Not 127.0.0.1: Ray replaces that by the host's own address, and the dashboard then
cannot reach the GCS."""

NETWORKS = range(100)
"""Clusters side by side on one machine have addresses of their own, 127.0.0.x, 127.0.1.x and so on."""

START_WITHIN = timedelta(seconds=120)
"""A cold page cache on a small machine needs most of a minute; beyond this something is wrong."""

STOP_WITHIN = timedelta(seconds=20)

QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    # Idle CPU: agents measure every process of the node each 2.5 s, and export metrics nobody reads here.
    "RAY_DASHBOARD_REPORTER_UPDATE_INTERVAL_MS": "60000",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_memory_monitor_refresh_ms": "1000",
    # Memory: workers start when something needs them.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}


@dataclass(frozen=True, kw_only=True)
class EmbeddedNode:
    """One node of the embedded cluster; `zone` is "" for the head."""

    ip: str
    zone: str
    id: str


class _Network:
    """The loopback addresses of one cluster, claimed by a name that the kernel frees when its holder dies."""

    def __init__(self, number: int, claim: socket.socket) -> None:
        self._number = number
        self._claim = claim

    @classmethod
    def claim(cls) -> Self:
        """Take the first network that no other cluster has. Raises Stalled when there is none."""
        for number in NETWORKS:
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                claim.bind(f"\0heliostat-embedded-{number}")
            except OSError:
                claim.close()
                continue
            return cls(number, claim)
        raise Stalled(f"{len(NETWORKS)} embedded Ray clusters run on this machine: end one of them first")

    def address(self, host: int) -> str:
        """Return the address of a host of this network."""
        return f"127.0.{self._number}.{host}"

    def release(self) -> None:
        """Let others have it."""
        self._claim.close()


@dataclass(kw_only=True)
class EmbeddedCluster:
    """A head without CPUs at 127.0.0.10 and one worker node per zone at 127.0.0.11 and on.

    A second cluster on the same machine takes 127.0.1.10 and on, and so forth.
    `dashboard_port` 0 takes a free one. `drain` is how long a stopping replica keeps serving. Use it as an
    asynchronous or as an ordinary context manager. Raises Stalled when the cluster cannot be started, with
    the reason.
    """

    zones: tuple[str, ...] = ("a", "b", "c")
    cpus_per_node: float = 2.0
    dashboard_port: int = 0
    drain: timedelta = timedelta(seconds=5)
    auth_token: str = field(default="", repr=False)
    """When set, Ray answers only who shows it: its servers listen on every address of the machine."""
    environment: Mapping[str, str] = field(default_factory=dict)
    nodes: dict[str, EmbeddedNode] = field(default_factory=dict, init=False)
    dashboard_url: str = field(default="", init=False)
    gcs_address: str = field(default="", init=False)
    started_in: timedelta = field(default=timedelta(0), init=False)
    _network: _Network | None = field(default=None, init=False)
    _temp_dir: str = field(default="", init=False)
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _received: bytes = field(default=b"", init=False)

    def start(self) -> None:
        """Start head and workers and wait until all of them are listed."""
        _refuse_other_systems()
        port = self.dashboard_port or _free_port()
        _refuse_taken(port)
        began = time.monotonic()
        # Short and in /tmp: Ray's socket paths below it must stay under 108 bytes.
        self._temp_dir = tempfile.mkdtemp(prefix="hs-", dir="/tmp")
        try:
            self._network = _Network.claim()
            self._spawn()
            ip = self._network.address(FIRST_HOST)
            head = self._ask({"do": "start", "ip": ip, "dashboard_port": port}, START_WITHIN)
            self.dashboard_url, self.gcs_address = f"http://127.0.0.1:{port}", head["gcs"]
            self.nodes[ip] = EmbeddedNode(ip=ip, zone="", id=head["node"])
            for zone in self.zones:
                self.add_node(zone)
        except BaseException:
            self.stop()
            raise
        self.started_in = timedelta(seconds=time.monotonic() - began)

    def add_node(
        self,
        zone: str,
        *,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, float] | None = None,
        gpus: float = 0,
    ) -> EmbeddedNode:
        """Add one worker node in `zone`. Ray believes in its `gpus`, whether they are there or not."""
        ip = self._next_ip()
        request = {
            "do": "add",
            "ip": ip,
            "cpus": self.cpus_per_node,
            "gpus": gpus,
            "labels": {ZONE_LABEL: zone, **(labels or {})},
            "resources": dict(resources or {}),
        }
        node = EmbeddedNode(ip=ip, zone=zone, id=self._ask(request, START_WITHIN)["node"])
        self.nodes[ip] = node
        return node

    def kill_node(self, ip: str) -> None:
        """Kill a worker node at once, as a power cut would."""
        self._ask({"do": "kill", "ip": ip}, STOP_WITHIN)
        del self.nodes[ip]

    def stop(self) -> None:
        """End everything and wait until it is gone. Harmless when nothing runs."""
        child, self._child = self._child, None
        if child is not None:
            _end(child)
            end_members(child.pid, os.path.basename(self._temp_dir))
        if self._temp_dir:
            shutil.rmtree(self._temp_dir, ignore_errors=True)
        if self._network is not None:
            self._network.release()
        self.nodes.clear()

    def __enter__(self) -> Self:
        """Start the cluster."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the cluster."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start the cluster without blocking the event loop."""
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be cancelled: ending its child makes it fail at once.
            self._abandon()
            with suppress(Stalled, OSError):
                await starting
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop the cluster."""
        await asyncio.shield(asyncio.to_thread(self.stop))

    def _spawn(self) -> None:
        environment = {
            # Settings for another Ray of this user (an address, a token) are none for this one.
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **QUIET_RAY,
            "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{self.drain.total_seconds():g}",
            **self._authentication,
            **self.environment,
            # Ray's jobs run `python`: it is to be the one that Ray itself runs with.
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
            "RAY_TMPDIR": self._temp_dir,
            "TMPDIR": self._temp_dir,
            MARK: os.path.basename(self._temp_dir),
        }
        with open(self._log_path, "wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "reconciler.embedded_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=self._temp_dir,
                start_new_session=True,
            )

    @property
    def _authentication(self) -> Mapping[str, str]:
        if self.auth_token:
            return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.auth_token}
        # Said aloud: Ray turns it on by itself where the user has a token file for another cluster.
        return {"RAY_AUTH_MODE": "disabled"}

    @property
    def _log_path(self) -> Path:
        return Path(self._temp_dir) / "embedded.log"

    def _next_ip(self) -> str:
        if self._network is None:
            raise Stalled("The embedded Ray cluster is not running.")
        hosts = map(self._network.address, range(FIRST_HOST + 1, 255))
        return next(ip for ip in hosts if ip not in self.nodes)

    def _ask(self, request: Mapping[str, Any], within: timedelta) -> dict[str, Any]:
        if self._child is None or self._child.stdin is None:
            raise Stalled("The embedded Ray cluster is not running.")
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._failed("ended unexpectedly") from None
        reply: dict[str, Any] = json.loads(self._read_line(within))
        if not reply["ok"]:
            raise self._failed(f"could not {request['do']}: {reply['error']}")
        return reply

    def _read_line(self, within: timedelta) -> bytes:
        child = self._child
        if child is None or child.stdout is None:
            raise Stalled("The embedded Ray cluster is not running.")
        deadline = time.monotonic() + within.total_seconds()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._failed(f"did not answer within {within.total_seconds():g} s")
                chunk = os.read(child.stdout.fileno(), 65536)
                if not chunk:
                    raise self._failed("ended unexpectedly")
                self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        return line

    def _failed(self, what: str) -> Stalled:
        tail = ""
        with suppress(OSError):
            tail = "\n".join(self._log_path.read_text(errors="replace").splitlines()[-15:])
        return Stalled(f"The embedded Ray cluster {what}." + (f" Its log ends with:\n{tail}" if tail else ""))

    def _abandon(self) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Close the child's stdin, which asks it to end, and make sure that it does."""
    with suppress(OSError):
        if child.stdin is not None:
            child.stdin.close()
    try:
        child.wait(STOP_WITHIN.total_seconds())
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _refuse_other_systems() -> None:
    if sys.platform != "linux":
        raise Stalled(
            "The embedded Ray cluster needs Linux: only there does every address of 127.0.0.0/8 work without set-up. "
            "Run it in a Linux container or virtual machine, or point Heliostat at a Ray cluster of yours with --ray."
        )


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Stalled(
                f"Port {port} on 127.0.0.1, wanted for Ray's dashboard, is taken ({error.strerror}). "
                "End what uses it or choose another port."
            ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
