"""ports.Serve on a simulated Serve, in virtual time, with faults at will and a record of what was done to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from reconciler.adapters.serve_details import ServeDetails, parse_details, to_seen
from reconciler.adapters.serve_put import ServeStart, document_for
from reconciler.adapters.serve_refusals import RefusedEntries
from reconciler.errors import Retry, Stalled
from reconciler.ports import Clock, ServeSeen
from specs.cells import parse_cell_name
from specs.effects import PutServeConfig
from tests.sim.codebook import CodeBook
from tests.sim.fake_nodes import FakeNodes
from tests.sim.serve_instance import PutRefused, ScaleRefused, ServeInstance
from tests.sim.serve_model import Timing


@dataclass(frozen=True, kw_only=True)
class PutRecord:
    """One PUT of ours: the applications of the whole document, and the builds that it cut."""

    at: datetime
    applications: tuple[str, ...]
    cut: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ScaleRecord:
    """One scale call of ours."""

    at: datetime
    application: str
    deployment: str
    target: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A moment at which the replicas of a service's deployment changed, summed over its cells."""

    at: datetime
    service: str
    deployment: str
    live: int
    serving: int


class FakeServe:
    """Reads, puts and scales as RayServe does, on a ServeInstance instead of a cluster.

    Every call, and `step`, first brings the simulation up to the clock's time.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        nodes: FakeNodes | None = None,
        book: CodeBook | None = None,
        timing: Timing | None = None,
        seed: int = 0,
    ) -> None:
        """`seed` decides whom Serve stops when it shrinks a deployment."""
        self.clock = clock
        self.nodes = nodes or FakeNodes.in_zones("a", "b", "c")
        self.book = book or CodeBook()
        self.instance = ServeInstance(nodes=self.nodes, book=self.book, timing=timing or Timing(), seed=seed)
        self.instance.on_tick = self._watch
        self.start = ServeStart()
        self._refused = RefusedEntries(lambda: clock.now().timestamp())
        self.outage = ""
        """While set, every call raises Retry with this text: Ray is not reachable."""
        self.write_outage = ""
        """While set, only PUT and scale calls fail."""
        self.unseen: set[str] = set()
        """Applications missing in reads though they are there: a partial answer, which reads report as Retry."""
        self.puts: list[PutRecord] = []
        self.scales: list[ScaleRecord] = []
        self.samples: list[Sample] = []
        self._last: dict[tuple[str, str], tuple[int, int]] = {}
        self._read: tuple[dict[str, Any], dict[str, str], ServeSeen] | None = None
        """The last report with what it says: most are as the one before, and to read them anew takes longest."""
        self.step()

    def step(self) -> None:
        """Bring the simulation up to the clock's time."""
        self.instance.advance_to(self.clock.now())

    async def read(self) -> ServeSeen:
        """Return what Serve reports now."""
        told = self._told()
        if self.unseen & told["applications"].keys():
            raise Retry("Ray Serve's report of its applications is not complete.")
        zones = {node.id: node.zone or "" for node in self.nodes.nodes.values()}
        if self._read is None or self._read[:2] != (told, zones):
            self._read = (told, zones, to_seen(parse_details(told), zones))
        return replace(self._read[2], refused=self._refused.present())

    async def put(self, change: PutServeConfig) -> None:
        """Compose and PUT by the real adapter's rules."""
        self._refuse_writes()
        refusal = await self._send(change)
        if refusal:
            await self._refused.put_apart(change, self._details(), self._send, refusal)
        else:
            self._refused.took(change)

    async def _send(self, change: PutServeConfig) -> str:
        details = self._details()
        document = document_for(details, change, self.start)
        if document is None:
            return ""
        kept = {application["name"] for application in document["applications"]}
        cut = (name for name, found in details.applications.items() if found.is_building and name in kept)
        record = PutRecord(at=self.clock.now(), applications=tuple(sorted(kept)), cut=tuple(sorted(cut)))
        try:
            self.instance.put(document)
        except PutRefused as refusal:
            return str(refusal)
        self.puts.append(record)
        return ""

    async def scale(self, application: str, deployment: str, target: int) -> None:
        """Call the external scaler."""
        self._refuse_writes()
        self.step()
        try:
            self.instance.scale(application, deployment, target)
        except ScaleRefused as refusal:
            error = Retry if refusal.status == 404 or "deleted" in str(refusal) else Stalled
            raise error(f"Ray Serve does not scale {deployment} of {application}: {refusal}") from None
        self.scales.append(
            ScaleRecord(at=self.clock.now(), application=application, deployment=deployment, target=target)
        )

    def put_by_somebody_else(self, applications: list[dict[str, Any]]) -> None:
        """PUT exactly these applications, as another writer would: ours that are missing are deleted."""
        self.step()
        self.instance.put({**self.instance.top_level, "applications": applications})

    def lose_head(self) -> None:
        """Restart the Ray head without GCS fault tolerance: all applications are gone."""
        self.step()
        self.instance.lose_head()
        self._watch()

    def want(self, application: str, deployment: str, replicas: int) -> None:
        """Say how many replicas the autoscaler would like an autoscaled deployment to have."""
        self.instance.wanted[application, deployment] = replicas

    def configs(self) -> dict[str, Mapping[str, Any]]:
        """Return the config of each application as Serve holds it."""
        return {name: found.config for name, found in self.instance.applications.items()}

    def live(self, service: str, deployment: str) -> int:
        """Return a service's starting + running + stopping replicas now."""
        return self._last.get((service, deployment), (0, 0))[0]

    def serving(self, service: str, deployment: str) -> int:
        """Return a service's replicas that take requests now."""
        return self._last.get((service, deployment), (0, 0))[1]

    def peak(self, service: str, deployment: str) -> int:
        """Return the most live replicas that a service's deployment ever had."""
        found = (sample.live for sample in self.samples if (sample.service, sample.deployment) == (service, deployment))
        return max(found, default=0)

    def _details(self) -> ServeDetails:
        return parse_details(self._told())

    def _told(self) -> dict[str, Any]:
        if self.outage:
            raise Retry(self.outage)
        self.step()
        return self.instance.details()

    def _refuse_writes(self) -> None:
        if self.outage or self.write_outage:
            raise Retry(self.outage or self.write_outage)

    def _watch(self) -> None:
        """Record every change of a service's replicas."""
        live: Counter[tuple[str, str]] = Counter()
        serving: Counter[tuple[str, str]] = Counter()
        for name, found in self.instance.applications.items():
            key = parse_cell_name(name)
            if key is None:
                continue
            for deployment in found.all_deployments:
                live[key.service, deployment.name] += sum(1 for r in deployment.replicas if r.holds_something)
                serving[key.service, deployment.name] += sum(1 for r in deployment.replicas if r.is_serving)
        for where in live.keys() | self._last.keys():
            counts = (live[where], serving[where])
            if counts != self._last.get(where, (0, 0)):
                self._last[where] = counts
                self.samples.append(
                    Sample(
                        at=self.instance.now or self.clock.now(),
                        service=where[0],
                        deployment=where[1],
                        live=counts[0],
                        serving=counts[1],
                    )
                )
