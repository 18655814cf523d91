"""What the demo sees of the daemon and of Ray, from outside, through their public HTTP APIs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from reconciler.adapters.clock import SystemClock
from reconciler.demo.nodes import NodesSight, read_nodes

LOOK_EVERY = timedelta(milliseconds=250)
LIVE_STATES = frozenset({"STARTING", "UPDATING", "RECOVERING", "RUNNING", "STOPPING", "PENDING_MIGRATION"})


class StoryBroke(Exception):
    """The story did not go as told; the text says what differed."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The sample service as the daemon reports it. `weights` are percent per revision."""

    phase: str
    health: str
    sync: str
    stable: str | None
    candidate: str | None
    target: str | None
    quarantined: tuple[str, ...]
    weights: Mapping[str, float]
    revisions: frozenset[str]
    """Revisions that still have a cell."""
    live: int
    ready: int
    reason: str
    message: str
    quarantine: str
    """Why the last revision was quarantined, with Ray's own words."""


def read_sight(service: Mapping[str, Any]) -> Sight:
    """Read one service of `GET /api/v1/status`."""
    quarantine = next((entry for entry in service["conditions"] if entry["type"] == "Quarantined"), None)
    return Sight(
        phase=service["phase"],
        health=service["health"],
        sync=service["sync"],
        stable=service["stable"],
        candidate=service["candidate"],
        target=service["target"],
        quarantined=tuple(service["quarantined"]),
        weights=service["weights"],
        revisions=frozenset(cell["revision"] for cell in service["cells"]),
        live=service["replicas"]["live"],
        ready=service["replicas"]["ready"],
        reason=service["reason"],
        message=service["message"],
        quarantine=quarantine["message"] if quarantine and service["quarantined"] else "",
    )


@dataclass(kw_only=True)
class Witness:
    """Looks several times a second. `deployed_at` is when Serve took each application, by its own clock."""

    page_url: str
    ray_url: str
    service: str
    sight: Sight | None = None
    nodes: NodesSight = field(default_factory=NodesSight)
    problem: str = ""
    peak: int = 0
    """The highest number of live replicas that Ray itself has shown, stopping ones included."""
    peak_states: str = ""
    """Which replicas those were."""
    retried: int = 0
    """The most replicas that Serve was clearing away at once because they had not even started."""
    deployed_at: dict[str, datetime] = field(default_factory=dict)
    last_event: int = 0
    on_sight: Callable[[Sight], None] = lambda sight: None
    on_event: Callable[[Mapping[str, Any]], None] = lambda event: None
    _ran: set[str] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Look until cancelled."""
        clock = SystemClock()
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            while True:
                await self._look_at_daemon(client)
                await self._look_at_ray(client)
                self._news.set()
                await clock.sleep(LOOK_EVERY)

    async def until(self, holds: Callable[[Sight], bool], *, within: timedelta, what: str) -> Sight:
        """Return the first sight for which `holds`. Raises StoryBroke when that takes longer than `within`."""
        try:
            async with asyncio.timeout(within.total_seconds()):
                while self.sight is None or not holds(self.sight):
                    self._news.clear()
                    await self._news.wait()
                return self.sight
        except TimeoutError:
            last = f"{self.sight.phase}, {self.sight.reason}: {self.sight.message}" if self.sight else self.problem
            raise StoryBroke(f"{what}: not within {within.total_seconds():g} s. Last seen: {last}") from None

    async def _look_at_daemon(self, client: httpx.AsyncClient) -> None:
        try:
            status = (await client.get(f"{self.page_url}/api/v1/status")).raise_for_status().json()
            self.nodes = read_nodes((await client.get(f"{self.page_url}/api/v1/nodes")).raise_for_status().json())
            await self._read_events(client)
        except httpx.HTTPError as error:
            self.problem = f"the daemon does not answer ({type(error).__name__})"
            return
        self.problem = status["problem"]
        for service in status["services"]:
            if service["name"] == self.service:
                self.sight = read_sight(service)
                self.on_sight(self.sight)

    async def _read_events(self, client: httpx.AsyncClient) -> None:
        url = f"{self.page_url}/api/v1/events"
        answer = (await client.get(url, params={"since": self.last_event})).raise_for_status().json()
        for event in answer["events"]:
            if event["id"] > self.last_event:
                self.last_event = event["id"]
                self.on_event(event)

    async def _look_at_ray(self, client: httpx.AsyncClient) -> None:
        """Count replicas at the source: the budget is not judged by the word of the one who keeps it."""
        try:
            seen = (await client.get(f"{self.ray_url}/api/serve/applications/")).raise_for_status().json()
        except httpx.HTTPError:
            return
        mine = {name: found for name, found in seen["applications"].items() if name.startswith(f"{self.service}.")}
        for name, found in mine.items():
            revision = name.split(".")[1]
            self.deployed_at.setdefault(revision, datetime.fromtimestamp(found["last_deployed_time_s"], tz=UTC))
        self._count([replica for found in mine.values() for replica in _replicas(found)])

    def _count(self, replicas: Sequence[tuple[str, str]]) -> None:
        """Take in all replicas (id, state).

        One that is stopped without ever having run failed at its start, and Serve replaces it on its own, at
        once and for as long as it likes: these are not Heliostat's moves, and are told apart.
        """
        live = [(replica, state) for replica, state in replicas if state in LIVE_STATES]
        self._ran |= {replica for replica, state in live if state == "RUNNING"}
        failed = [replica for replica, state in live if state == "STOPPING" and replica not in self._ran]
        self.retried = max(self.retried, len(failed))
        if len(live) - len(failed) > self.peak:
            self.peak = len(live) - len(failed)
            counts = Counter(state for replica, state in live if replica not in failed)
            self.peak_states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _replicas(application: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (replica["replica_id"], replica["state"])
        for found in application["deployments"].values()
        for replica in found["replicas"]
    ]
