"""The story about places: a zone is lost and comes back, and the replicas end on as few nodes as hold them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx

from reconciler.adapters.clock import SystemClock
from reconciler.demo.nodes import Painter
from reconciler.demo.placement_repository import GREETERS, OTHER, TRANSLATORS, PlacementRepository
from reconciler.demo.repository import SERVICE
from reconciler.demo.table import render, request_sums
from reconciler.demo.teller import Teller, is_settled
from reconciler.demo.witness import StoryBroke
from reconciler.embedded import EmbeddedCluster

ZONES = ("a", "b", "c")
NODES = tuple(zone for zone in ZONES for _ in range(2))
LOST = "c"

DEPLOYED_WITHIN = timedelta(seconds=180)
NOTICED_WITHIN = timedelta(seconds=60)
REBUILT_WITHIN = timedelta(seconds=120)
BACK_WITHIN = timedelta(seconds=240)
"""A zone that is back is believed after 30 seconds."""
COMPACT_WITHIN = timedelta(seconds=300)

UNDER_WAY = 1.0
"""How long before the loss a request may have been sent that was under way when it came."""

LEFT_AFTER = 3.0
"""A lost zone gets nothing new after so many seconds."""

PLANNED_WITHIN = timedelta(seconds=60)
PLAN_SECONDS = 60.0
"""One plan takes a second or two; the first one starts a process for it."""


@dataclass(kw_only=True)
class PlacementStory(Teller):
    """Plays the chapters in turn. `cluster` is the one whose nodes die and come back."""

    repository: PlacementRepository
    cluster: EmbeddedCluster
    page_url: str
    painter: Painter = field(init=False)
    planned: int | None = None
    """How many nodes the plan for the last chapter says are enough."""
    lost_at: tuple[float, float] = (0.0, 0.0)
    """When the zone's nodes began to die, and when the last one had."""

    def __post_init__(self) -> None:
        """Draw with the story's own names."""
        self.painter = Painter(screen=self.screen, names=self.names)

    @property
    def moral(self) -> str:
        """Return what a story that went as told has shown."""
        died = len(self._died())
        return f"no request failed but those that died with their zone ({died})." if died else "no request failed."

    async def play(self) -> None:
        """Play everything. Raises StoryBroke where the story cannot go on."""
        await self._spread()
        await self._zone_lost()
        await self._zone_back()
        await self._fewer_nodes()

    async def _spread(self) -> None:
        self.screen.title(f"1. Two services over three zones: {GREETERS} greeters, {TRANSLATORS} translators")
        began, before = time.monotonic(), self.load.tally.copy()
        pushed = self.repository.add_services()
        self.screen.say("Committed two specs with `placement: {zones: ...}`: replicas are to be spread over the zones.")
        revision = await self.recognised("v1", known=frozenset())
        await self._placed(ZONES, DEPLOYED_WITHIN, "both services are up in all zones")
        self.end_stage("both deployed", began, before, self.reaction(revision, pushed))
        self.start_load()
        await self.answered("v1")
        self._picture("Six nodes in three zones, replicas in each zone alike")

    async def _zone_lost(self) -> None:
        self.screen.title(f"2. Zone {LOST} loses power")
        began, before = time.monotonic(), self.load.tally.copy()
        ips = sorted(node.ip for node in self.cluster.nodes.values() if node.zone == LOST)
        self.screen.say(f"kill -9 of all of Ray on {' and '.join(ips)}; {self._dying()} replicas die.")
        for ip in ips:
            await asyncio.to_thread(self.cluster.kill_node, ip)
        self.lost_at = (began, time.monotonic())
        await self.witness.until(
            lambda sight: all(box.zone != LOST for box in self.witness.nodes.alive),
            within=NOTICED_WITHIN,
            what=f"Ray notices that zone {LOST} is gone",
        )
        self.screen.say(
            f"Ray has noticed; the gateway had, by its own checks. {self.sight.ready} greeters answer for all,"
            " and new ones are started in the other zones."
        )
        others = tuple(zone for zone in ZONES if zone != LOST)
        await self._placed(others, REBUILT_WITHIN, "what was lost is built anew in the other zones")
        self.end_stage(f"zone {LOST} lost, rebuilt", began, before)
        self._picture(f"Zone {LOST} is gone; the other zones hold all replicas, evenly")

    def _dying(self) -> int:
        return sum(len(box.dots) for box in self.witness.nodes.boxes if box.zone == LOST)

    async def _zone_back(self) -> None:
        self.screen.title(f"3. Zone {LOST} is back")
        began, before = time.monotonic(), self.load.tally.copy()
        for _ in range(NODES.count(LOST)):
            await asyncio.to_thread(self.cluster.add_node, LOST)
        self.screen.say("Two new nodes. They are believed after 30 seconds: a zone that flaps is not to move replicas.")
        await self._placed(ZONES, BACK_WITHIN, f"zone {LOST} is refilled")
        self.end_stage(f"zone {LOST} refilled", began, before)
        self._picture("Replica by replica the zone was filled again; each old one went when its new one answered")

    async def _fewer_nodes(self) -> None:
        self.screen.title("4. Fewer nodes for the same replicas")
        began, before = time.monotonic(), self.load.tally.copy()
        self.planned = await self._plan()
        self.repository.allow_compaction()
        self.screen.say("Committed `compaction: {enabled: true}` in the ClusterPolicy. One node at a time is emptied.")
        await self.witness.until(
            lambda sight: (
                len(self.witness.nodes.alive) <= (self.planned or 0)
                and self.witness.nodes.is_at_rest
                and self._is_even(ZONES)
            ),
            within=COMPACT_WITHIN,
            what="the nodes that are not needed are empty and gone",
        )
        self.end_stage(f"{len(NODES)} nodes to {self.planned}", began, before)
        self._picture("What is left: every replica, still in every zone")

    async def _plan(self) -> int:
        """Return how many worker nodes the daemon's own plan leaves, and tell it.

        There is none before the services have been at rest for a moment, as the policy wants it.
        """
        clock = SystemClock()
        deadline = clock.now() + PLANNED_WITHIN
        while True:
            plan = await self._planned_now()
            going = sum(1 for node in plan["nodes"] if node["goes"])
            if going:
                break
            if clock.now() > deadline:
                reasons = {node["why"] for node in plan["nodes"]}
                raise StoryBroke(f"no node can go: {'; '.join(sorted(reasons))}")
            await clock.sleep(timedelta(seconds=1))
        workers = sum(1 for node in self.cluster.nodes.values() if node.zone)
        moves = sum(move["count"] for move in plan["moves"])
        self.screen.say(
            f"`heliostat compaction` says: {workers} nodes now, {workers - going} afterwards;"
            f" {moves} replicas move{'; no plan is better' if plan['isBest'] else ''}."
        )
        return workers - going

    async def _planned_now(self) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False, timeout=PLAN_SECONDS) as client:
            try:
                answer = await client.get(f"{self.page_url}/api/v1/compaction")
                plan: dict[str, Any] = answer.raise_for_status().json()
            except httpx.HTTPError as error:
                raise StoryBroke(f"there is no plan for fewer nodes ({type(error).__name__})") from None
        return plan

    async def _placed(self, zones: Sequence[str], within: timedelta, what: str) -> None:
        """Wait until both services are spread over these zones, evenly, and at rest."""
        await self.witness.until(
            lambda sight: (
                is_settled(sight)
                and sight.reason == "Steady"
                and self.witness.nodes.is_at_rest
                and self._is_even(zones)
            ),
            within=within,
            what=what,
        )

    def _is_even(self, zones: Sequence[str]) -> bool:
        """Return whether both services have all their replicas in exactly these zones, evenly."""
        for service, count in ((SERVICE, GREETERS), (OTHER, TRANSLATORS)):
            found = self.witness.nodes.per_zone(service)
            if set(found) != set(zones) or sum(found.values()) != count:
                return False
            if max(found.values()) - min(found.values()) > 1:
                return False
        return True

    def _picture(self, text: str) -> None:
        self.screen.say(f"{text}:")
        for line in ["", *self.painter.draw(self.witness.nodes), ""]:
            self.screen.plain(line)

    def look_back(self) -> None:
        """Check what has to hold over the whole story."""
        died = self._died()
        late = [at for at in self.load.tally.failed_at if at not in died]
        if late:
            self.differences.append(
                f"{len(late)} of {self.load.tally.sent} requests failed that were not on their way when zone {LOST}"
                f" died: {'; '.join(self.load.tally.examples)}"
            )
        self.check_executions()
        self.check_answers(frozenset({"Hello from v1"}))
        nodes = len(self.witness.nodes.alive)
        if self.planned is not None and nodes != self.planned:
            self.differences.append(f"{nodes} nodes are left, the plan was {self.planned}")

    def table(self, total: timedelta) -> str:
        """Return the figures."""
        left = len(self.witness.nodes.alive)
        spread = ", ".join(f"{zone} {count}" for zone, count in self.witness.nodes.per_zone(SERVICE).items())
        more = (
            ("failed with their zone", self._last_died()),
            ("nodes", f"{len(NODES)} before, {left} after"),
            ("greeters per zone", spread or "none"),
            ("whole story", f"{total.total_seconds():.0f} s"),
        )
        return render(self.stages, (*request_sums(self.load.tally, self.load.executions()), *more))

    def _died(self) -> list[float]:
        """Return when the requests were sent that failed because their zone died."""
        first, last = self.lost_at
        return [at for at in self.load.tally.failed_at if first <= at + UNDER_WAY and at <= last + LEFT_AFTER]

    def _last_died(self) -> str:
        died = self._died()
        if not died:
            return "0"
        return f"{len(died)}, the last one sent {max(died) - self.lost_at[0]:+.1f} s after the first node died"
