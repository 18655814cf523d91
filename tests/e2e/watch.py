"""Observers of their own: what Ray and HAProxy show, whatever the daemon says."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from reconciler.gateway.rows import parse_row
from tests.e2e.daemon import Daemon
from tests.e2e.load import Record

RAY_EVERY = 0.4
GATEWAY_EVERY = 0.1
ENOUGH_LOOKS = 50
FULL = 10_000


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """One look at Ray: live replicas (starting, running, stopping) by (application, deployment)."""

    at: float
    live: Mapping[tuple[str, str], int]
    ids: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    targets: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def of(self, service: str, deployment: str, failing: frozenset[str] = frozenset()) -> int:
        """Return a service's live replicas of a deployment, summed over its applications.

        Serve starts the next replica of a failing revision while the one before still stops: of those
        only as many count as were asked for.
        """
        total = 0
        for (application, name), count in self.live.items():
            own, revision = (*application.split("."), "")[:2]
            if own == service and name == deployment:
                total += min(count, self.targets[application, name]) if revision in failing else count
        return total


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """One look at HAProxy: basis points and servers that are up, by application."""

    at: float
    weights: Mapping[str, int]
    up: Mapping[str, int]


def read_replicas(details: Mapping[str, Any], at: float) -> Replicas:
    """Count replicas in the answer of Serve's API."""
    live: dict[tuple[str, str], int] = {}
    ids: dict[tuple[str, str], frozenset[str]] = {}
    targets: dict[tuple[str, str], int] = {}
    for application, shown in details["applications"].items():
        for deployment, found in shown["deployments"].items():
            live[application, deployment] = len(found["replicas"])
            targets[application, deployment] = found["target_num_replicas"]
            ids[application, deployment] = frozenset(replica["replica_id"] for replica in found["replicas"])
    return Replicas(at=at, live=live, ids=ids, targets=targets)


class AdminSocket:
    """HAProxy's admin socket, found anew for each question: a restarted HAProxy has another one."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def ask(self, command: str) -> str:
        """Return the answer. Raises OSError while there is no HAProxy."""
        running = self._daemon.gateway_state().get("running") or {}
        folder = os.open(self._daemon.gateway_folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                # An address holds 107 bytes; through the open folder it is always short enough.
                connection.connect(f"/proc/self/fd/{folder}/admin.{running.get('generation')}.sock")
                connection.sendall(command.encode() + b"\n")
                parts = []
                while part := connection.recv(65536):
                    parts.append(part)
        finally:
            os.close(folder)
        return b"".join(parts).decode()

    def map(self, name: str) -> dict[str, str]:
        """Return a map's entries."""
        lines = (line.split(" ", 2) for line in self.ask(f"show map ./{name}").splitlines() if line.count(" ") >= 2)
        return {key: value for _, key, value in lines}

    def traffic(self, at: float) -> Traffic:
        """Return who is routed what, and how many servers could answer it."""
        prefixes = self.map("lanes.map")
        weights: dict[str, int] = defaultdict(int)
        for row in self.map("routes.map").values():
            for lane, weight in parse_row(row).weights().items():
                weights[prefixes[lane].removeprefix("/_/")] += weight
        up: dict[str, int] = defaultdict(int)
        for line in self.ask("show stat -1 4 -1").splitlines():
            fields = line.split(",")
            if len(fields) > 17 and fields[0] in prefixes and fields[17].startswith("UP"):
                up[prefixes[fields[0]].removeprefix("/_/")] += 1
        return Traffic(at=at, weights=dict(weights), up=dict(up))


class Watch:
    """Looks at Ray and HAProxy all the time while its block runs."""

    def __init__(self, daemon: Daemon, ray: str) -> None:
        self.replicas: list[Replicas] = []
        self.traffic: list[Traffic] = []
        self.garbled: list[str] = []
        self._admin = AdminSocket(daemon)
        self._url = f"{ray}/api/serve/applications/"
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._look_at_ray), threading.Thread(target=self._look_at_gateway)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _look_at_ray(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            while not self._over.wait(RAY_EVERY):
                with suppress(httpx.TransportError, ValueError, KeyError):
                    self.replicas.append(read_replicas(client.get(self._url).json(), time.time()))

    def _look_at_gateway(self) -> None:
        while not self._over.wait(GATEWAY_EVERY):
            try:
                self.traffic.append(self._admin.traffic(time.time()))
            except OSError:
                continue  # No HAProxy at this moment.
            except (KeyError, ValueError) as error:
                self.garbled.append(f"{type(error).__name__}: {error}")  # It died in the middle of its answer.

    def around(self, records: Sequence[Record]) -> str:
        """Return what HAProxy and Ray showed when requests failed."""
        if not records:
            return ""
        since, until = records[0].start - 3, records[-1].end + 1
        looks = [look for look in (*self.traffic, *self.replicas) if since <= look.at <= until]
        told = [f"{len(records)} failed, such as {records[0]}"]
        for look in sorted(looks, key=lambda look: look.at):
            shown = f"{dict(look.weights)} up {dict(look.up)}" if isinstance(look, Traffic) else f"Ray: {look.live}"
            if shown != told[-1].partition(" ")[2]:
                told.append(f"{look.at:.1f} {shown}")
        return "\n".join(told)

    def peak(self, service: str, deployment: str = "Echo", failing: frozenset[str] = frozenset()) -> int:
        """Return the most live replicas that Ray ever showed; `failing` as in `Replicas.of`."""
        return max(look.of(service, deployment, failing) for look in self.replicas)

    def jumps(self, needed: int) -> list[str]:
        """Return each raise of a weight above the share that servers which were up could carry.

        Two looks lie around every change: what was up at either of them counts. Who saw nothing cannot say that
        nothing jumped: there must have been looks.
        """
        routed = sum(1 for look in self.traffic if look.weights)
        assert routed >= ENOUGH_LOOKS, f"weights were seen {routed} times only; garbled: {self.garbled[:3]}"
        assert len(self.garbled) * 10 <= routed, f"{len(self.garbled)} looks beside {routed}: {self.garbled[:3]}"
        found = []
        for before, after in zip(self.traffic, self.traffic[1:], strict=False):
            for cell, weight in after.weights.items():
                up = max(before.up.get(cell, 0), after.up.get(cell, 0))
                if weight > before.weights.get(cell, 0) and weight > min(FULL, up * FULL // needed) + 1:
                    found.append(f"{cell}: {before.weights.get(cell, 0)} -> {weight} with {up} of {needed} up")
        return found
