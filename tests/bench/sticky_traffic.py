"""Made-up rollouts with sticky traffic: clients that stay on their revision, a few of them with bad luck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specs.evidence import CLIENT_GROUPS, OVERFLOW, Evidence, Window
from tests.bench.rollout_traffic import buckets_of, histogram

BAD_CLIENTS = 0.01
"""Share of the clients most of whose requests fail, such as those with a broken token."""


@dataclass(frozen=True, kw_only=True)
class _Requests:
    group: NDArray[np.int64]
    bucket: NDArray[np.int64]
    failed: NDArray[np.bool_]

    def until(self, end: int) -> Evidence:
        place = np.bincount(
            self.group[:end] * (OVERFLOW + 1) + self.bucket[:end], minlength=CLIENT_GROUPS * (OVERFLOW + 1)
        )
        counts = place.reshape(CLIENT_GROUPS, OVERFLOW + 1)
        errors = np.bincount(self.group[:end][self.failed[:end]], minlength=CLIENT_GROUPS)
        groups = tuple(
            Evidence(requests=int(row.sum()), errors=int(bad), latency=histogram(row))
            for row, bad in zip(counts, errors, strict=True)
        )
        total = counts.sum(axis=0)
        return Evidence(requests=end, errors=int(errors.sum()), latency=histogram(total), clients=groups)


def sticky_looks(
    seed: int, *, worse: float = 1.0, clients: int = 2_000, share: float = 0.2
) -> Iterator[tuple[Window, ...]]:
    """Tell a rollout of 40,000 requests at twenty looks; `worse` times as many clients of the candidate are bad."""
    draw = np.random.default_rng(seed)
    sides = [
        _requests(draw, int(clients * part), int(40_000 * part), BAD_CLIENTS * factor)
        for part, factor in ((share, worse), (1 - share, 1.0))
    ]
    for past in np.linspace(0.05, 1, 20):
        mine, theirs = (side.until(int(len(side.group) * past)) for side in sides)
        yield (Window(candidate=mine, stable=theirs),)


def _requests(draw: np.random.Generator, clients: int, requests: int, bad: float) -> _Requests:
    busy = draw.gamma(0.5, 1, clients)
    client = draw.choice(clients, requests, p=busy / busy.sum())
    rate = np.where(draw.random(clients) < bad, 0.6, 0.004)[client]
    slow = 0.05 * np.exp(0.5 * draw.standard_normal(clients))[client]
    return _Requests(
        group=draw.integers(CLIENT_GROUPS, size=clients)[client],
        bucket=buckets_of(slow * np.exp(0.3 * draw.standard_normal(requests))),
        failed=draw.random(requests) < rate,
    )
