"""Made-up rollouts with sticky traffic: clients that stay on their revision, a few of them with bad luck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specs.evidence import BUCKETS_PER_OCTAVE, CLIENT_GROUPS, COARSE, OVERFLOW, Evidence, Window
from tests.bench.rollout_traffic import Floats, buckets_of, histogram

LOOKS = 20


@dataclass(frozen=True, kw_only=True)
class Sticky:
    """A service's clients. `bad` of them fail `bad_rate` of their requests, such as those with a broken token.

    `activity` is how evenly they ask: 0.5 is a few busy ones, 0.05 some that send most of all requests. `slowness` is
    how much slower one is than the next (the spread of the logarithm), `spread` how much one's own requests differ, and
    bad ones take `bad_slower` times as long. `shares` are the candidate's, step by step.
    """

    clients: int = 2_000
    requests: int = 40_000
    shares: tuple[float, ...] = (0.2,)
    bad: float = 0.01
    bad_rate: float = 0.6
    other_rate: float = 0.004
    activity: float = 0.5
    slowness: float = 0.5
    spread: float = 0.3
    bad_slower: float = 1.0


KINDS = {
    "2,000 clients, at 20%": Sticky(),
    "2,000 clients, at 5%": Sticky(shares=(0.05,)),
    "2,000 clients, 10-25-50%": Sticky(shares=(0.1, 0.25, 0.5)),
    "300 clients, 5-10-25-50%": Sticky(clients=300, shares=(0.05, 0.1, 0.25, 0.5)),
    "20,000 clients, at 10%": Sticky(clients=20_000, shares=(0.1,)),
    "some send most, at 10%": Sticky(activity=0.05, shares=(0.1,)),
    "nothing fails but for the bad": Sticky(bad=0.005, bad_rate=1.0, other_rate=0.0002, shares=(0.1,)),
    "5 clients, at 20%": Sticky(clients=5, bad=0.2, bad_rate=1.0, other_rate=0.0, shares=(0.2,)),
    "10 clients, at 10%": Sticky(clients=10, bad=0.1, bad_rate=1.0, other_rate=0.0, shares=(0.1,)),
    "30 clients, 5-10-25-50%": Sticky(clients=30, bad=0.1, bad_rate=1.0, shares=(0.05, 0.1, 0.25, 0.5)),
    "200 clients within 7% but for a few, at 5%": Sticky(
        clients=200, bad=0.005, bad_rate=0.004, activity=5, shares=(0.05,), slowness=0.02, spread=0.01, bad_slower=1.4
    ),
}

SLOWER = (1.3, 1.5, 2.0)
"""By how much all of a candidate's latencies are longer, where its p99 is to be found out by clients."""

SLOWER_KINDS = (
    "2,000 clients, at 20%",
    "2,000 clients, at 5%",
    "2,000 clients, 10-25-50%",
    "300 clients, 5-10-25-50%",
    "20,000 clients, at 10%",
    "some send most, at 10%",
)


@dataclass(frozen=True, kw_only=True)
class _Clients:
    """Each client: where its hash puts it, its group, and how it fares."""

    place: Floats
    group: NDArray[np.int64]
    asks: Floats
    luck: Floats
    slow: Floats


def sticky_looks(seed: int, kind: Sticky, *, worse: float = 1.0, slower: float = 1.0) -> Iterator[tuple[Window, ...]]:
    """Tell a rollout at twenty looks; the candidate is bad to `worse` times as many clients, and `slower` to all."""
    draw = np.random.default_rng(seed)
    # Where latencies lie in the groups' wide buckets is any place.
    usual = 0.05 * 2 ** (np.random.default_rng((seed, 1)).random() * COARSE / BUCKETS_PER_OCTAVE)
    busy = draw.gamma(kind.activity, 1, kind.clients) + 1e-9
    clients = _Clients(
        place=draw.random(kind.clients),
        group=draw.integers(CLIENT_GROUPS, size=kind.clients),
        asks=busy / busy.sum(),
        luck=draw.random(kind.clients),
        slow=usual * np.exp(kind.slowness * draw.standard_normal(kind.clients)),
    )
    ended: tuple[Window, ...] = ()
    for share in kind.shares:
        sides = _Counts(), _Counts()
        for _ in range(LOOKS // len(kind.shares)):
            client = draw.choice(kind.clients, kind.requests // LOOKS, p=clients.asks)
            for side, is_mine, factor, pace in zip(sides, (True, False), (worse, 1.0), (slower, 1.0), strict=True):
                chosen = client[(clients.place[client] < share) == is_mine]
                is_bad = clients.luck[chosen] < kind.bad * factor
                rate = np.where(is_bad, kind.bad_rate, kind.other_rate)
                seconds = clients.slow[chosen] * np.exp(kind.spread * draw.standard_normal(len(chosen)))
                seconds = np.where(is_bad, kind.bad_slower, 1.0) * seconds * pace
                side.add(clients.group[chosen], buckets_of(seconds), draw.random(len(chosen)) < rate)
            window = Window(candidate=sides[0].evidence(), stable=sides[1].evidence())
            yield (*ended, window)
        ended = (*ended, window)


class _Counts:
    """What the gateway counts of one revision: in all, and by group with coarser latencies."""

    def __init__(self) -> None:
        self._fine = np.zeros(OVERFLOW + 1, dtype=np.int64)
        self._coarse = np.zeros((CLIENT_GROUPS, OVERFLOW // COARSE + 2), dtype=np.int64)
        self._errors = np.zeros(CLIENT_GROUPS, dtype=np.int64)

    def add(self, group: NDArray[np.int64], bucket: NDArray[np.int64], failed: NDArray[np.bool_]) -> None:
        np.add.at(self._fine, bucket, 1)
        np.add.at(self._coarse, (group, -(-bucket // COARSE)), 1)
        np.add.at(self._errors, group[failed], 1)

    def evidence(self) -> Evidence:
        wide = np.zeros(self._coarse.shape[1] * COARSE, dtype=np.int64)
        groups = []
        for row, errors in zip(self._coarse, self._errors, strict=True):
            wide[::COARSE] = row
            groups.append(Evidence(requests=int(row.sum()), errors=int(errors), latency=histogram(wide)))
        total = int(self._fine.sum())
        latency = histogram(self._fine)
        return Evidence(requests=total, errors=int(self._errors.sum()), latency=latency, clients=tuple(groups))
