"""What is known of the traffic by groups of clients, where clients stay on their version.

Errors and slow answers of one client come together, so that clients and not requests are what a comparison counts.
HAProxy counts answers and failures per lane and group in a stick table; groups come by another hash of the client's id
than the one that chooses the version. The groups are a sample of each version's clients; nobody is looked at alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from specs.evidence import CLIENT_GROUPS, COARSE, Evidence, LatencyCounts, bucket_of

TABLE = "clients"
"""The stick table, `LANE:GROUP` with gpc0 (answers) and gpc1 (of these, 5xx)."""

HASH_SEED = 7
"""Any but 0, which is the seed of the hash that chooses the version: groups must cut across versions."""

_ENTRY = re.compile(r"key=(\S+):(\d+) .*?gpc0=(\d+) gpc1=(\d+)")

Groups = Mapping[int, tuple[int, int]]
"""Answers, and how many of them failed, by group."""


def parse_clients(text: str) -> dict[str, dict[int, tuple[int, int]]]:
    """Read `show table clients` by lane."""
    lanes: dict[str, dict[int, tuple[int, int]]] = {}
    for lane, group, answers, failures in _ENTRY.findall(text):
        lanes.setdefault(lane, {})[int(group)] = (int(answers), int(failures))
    return lanes


@dataclass(frozen=True, kw_only=True)
class ClientState:
    """What outlives the daemon: counts by cell, the last readings by `GENERATION:LANE`, and latencies by cell."""

    totals: Mapping[str, Groups] = field(default_factory=dict)
    read: Mapping[str, Groups] = field(default_factory=dict)
    latency: Mapping[str, Mapping[int, LatencyCounts]] = field(default_factory=dict)


class ClientLedger:
    """Counts per cell and group of clients, summed over HAProxy processes and lane leases as in `Ledger`."""

    def __init__(self, state: ClientState | None = None) -> None:
        """Start where a former daemon left off."""
        state = state or ClientState()
        self._totals = {cell: dict(groups) for cell, groups in state.totals.items()}
        self._read = dict(state.read)
        self._latency = {
            cell: {group: Counter(dict(counts.buckets)) for group, counts in groups.items()}
            for cell, groups in state.latency.items()
        }

    def credit(self, cell: str, generation: int, lane: str, groups: Groups) -> None:
        """Take a reading of a lane's groups."""
        key = f"{generation}:{lane}"
        before = self._read.get(key, {})
        if groups == before:
            return
        totals = self._totals.setdefault(cell, {})
        for group, (answers, failures) in groups.items():
            known, last = totals.get(group, (0, 0)), before.get(group, (0, 0))
            totals[group] = (known[0] + answers - last[0], known[1] + failures - last[1])
        self._read[key] = groups

    def time(self, cell: str, group: int, seconds: float) -> None:
        """Count an answer's time to headers."""
        groups = self._latency.setdefault(cell, {})
        # Rounded up: what was above a bound stays above it.
        groups.setdefault(group, Counter())[-(-bucket_of(seconds) // COARSE) * COARSE] += 1

    def of(self, cell: str) -> tuple[Evidence, ...]:
        """Return a cell's traffic by groups, all of them."""
        totals, latency = self._totals.get(cell, {}), self._latency.get(cell, {})
        return tuple(
            Evidence(
                requests=totals.get(group, (0, 0))[0],
                errors=totals.get(group, (0, 0))[1],
                latency=LatencyCounts.of(latency.get(group, {})),
            )
            for group in range(CLIENT_GROUPS)
        )

    def keep(self, cells: Iterable[str], generations: Iterable[int]) -> None:
        """Forget cells that hold no lane any more, and processes that ended."""
        kept, alive = frozenset(cells), frozenset(map(str, generations))
        self._totals = {cell: groups for cell, groups in self._totals.items() if cell in kept}
        self._latency = {cell: groups for cell, groups in self._latency.items() if cell in kept}
        self._read = {key: groups for key, groups in self._read.items() if key.partition(":")[0] in alive}

    def state(self) -> ClientState:
        """Return what is to be saved."""
        return ClientState(
            totals={cell: dict(groups) for cell, groups in self._totals.items()},
            read=dict(self._read),
            latency={
                cell: {group: LatencyCounts.of(counts) for group, counts in sorted(groups.items())}
                for cell, groups in self._latency.items()
            },
        )
