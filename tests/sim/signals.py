"""What the gateway counts in virtual time: requests, errors and latencies of each cell, as its code answers them."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

from reconciler.gateway.clients import ClientLedger
from specs.evidence import CLIENT_GROUPS, Evidence, LatencyCounts, bucket_of
from specs.observed import TrafficSeen
from specs.routes import FULL, StickyKind
from tests.sim.codebook import Behaviour

if TYPE_CHECKING:
    from tests.sim.world import Simulation


SPREAD = tuple(math.exp(0.4 * NormalDist().inv_cdf((place + 0.5) / 89)) for place in range(89))
"""What multiplies a latency, request by request in turns: the same for all, so that equal code looks equal."""


@dataclass(kw_only=True)
class Tally:
    """The counters of one cell. `owed` is the fraction of a request that has not come yet."""

    requests: int = 0
    errors: int = 0
    latency: Counter[int] = field(default_factory=Counter)
    owed: float = 0.0
    groups: dict[int, tuple[int, int]] = field(default_factory=dict)
    clients: ClientLedger = field(default_factory=ClientLedger)

    def count(self, seconds: float, group: int, *, is_error: bool) -> None:
        answers, failures = self.groups.get(group, (0, 0))
        self.groups[group] = (answers + 1, failures + is_error)
        self.clients.time("", group, seconds)
        self.latency[bucket_of(seconds)] += 1
        self.errors += is_error

    def seen(self, cell: str, *, by_client: bool) -> TrafficSeen:
        self.clients.credit("", 1, "", dict(self.groups))
        evidence = Evidence(
            requests=self.requests,
            errors=self.errors,
            latency=LatencyCounts.of(self.latency),
            clients=self.clients.of("") if by_client else (),
        )
        return TrafficSeen(cell=cell, requests=self.requests, errors=self.errors, evidence=evidence)


class Signals:
    """`rate` requests a second for each routed service, spread over its cells by weight."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._dice = random.Random(sim.seed + 1)
        self._tallies: dict[str, Tally] = {}
        self._groups = random.Random(sim.seed + 2)
        self.rate = 20.0
        self.broken_clients: set[str] = set()
        """Versions one client of which sends a fifth of their requests, and fails with each of them."""

    def step(self) -> None:
        """Let a second's requests come."""
        gateway = self._sim.gateway
        for row in gateway.table.services:
            for cell in row.cells:
                if cell.weight and self._sim.watch.truth.up(cell.cell):
                    if cell.cell not in gateway.traffic:
                        self._tallies[cell.cell] = Tally()  # Its counters were lost with the gateway.
                    tally = self._tallies[cell.cell]
                    has_broken_client = cell.cell.split(".")[1] in self.broken_clients
                    code = self._behaviour(cell.cell)
                    self._answer(tally, self.rate * cell.weight / FULL, code, has_broken_client=has_broken_client)
                    by_client = row.sticky is not None and row.sticky.kind is not StickyKind.OVER
                    gateway.traffic[cell.cell] = tally.seen(cell.cell, by_client=by_client)

    def _behaviour(self, cell: str) -> Behaviour:
        return self._sim.book.behaviour(self._sim.serve.instance.applications[cell].config)

    def _answer(self, tally: Tally, count: float, code: Behaviour, *, has_broken_client: bool) -> None:
        tally.owed += count
        arrived = int(tally.owed)
        tally.owed -= arrived
        errors = self._chosen(arrived, code.error_rate)
        for number in range(arrived):
            latency = code.tail_latency if self._chosen(1, code.tail_share) else code.latency
            spread = SPREAD[(tally.requests + number) * 34 % len(SPREAD)]
            is_broken = has_broken_client and (tally.requests + number) % 5 == 0
            group = 0 if is_broken else self._groups.randrange(CLIENT_GROUPS)
            tally.count(latency.total_seconds() * spread, group, is_error=is_broken or number < errors)
        tally.requests += arrived

    def _chosen(self, count: int, share: float) -> int:
        return sum(self._dice.random() < share for _ in range(count)) if share else 0
