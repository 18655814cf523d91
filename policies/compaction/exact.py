"""The cheapest set of machines, exactly: a mixed-integer program for HiGHS, with a limit of time.

Replicas that are alike are one variable per machine (how many come), not one each, and machines that are alike are
put in an order, so that no two answers differ by names only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from policies.compaction.heuristic import NO_LIMIT, Grid

INFEASIBLE = 2


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the solver found: nothing cheaper (`came` is None), or what stays and what comes where; and its bound."""

    stays: NDArray[np.bool_] | None
    came: NDArray[np.int64] | None
    bound: float
    is_best: bool


def search(grid: Grid, known: float, seconds: float) -> Found:
    """Look for something cheaper than `known`; `is_best` when what is found (or `known`) cannot be bettered."""
    program = _Program(grid)
    unit = float(grid.prices.min())
    ceiling = (known - _step(grid)) / unit
    result = milp(
        c=program.prices,
        integrality=np.ones(program.width),
        bounds=Bounds(program.lows, program.highs),
        constraints=[*program.constraints(), LinearConstraint(program.prices[None, :] / unit, -np.inf, ceiling)],
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    if result.status == INFEASIBLE:
        return Found(stays=None, came=None, bound=known, is_best=True)
    bound = result.mip_dual_bound
    bound = 0.0 if bound is None or not np.isfinite(bound) else min(float(bound), known)
    if result.x is None:
        return Found(stays=None, came=None, bound=bound, is_best=False)
    values = np.rint(result.x).astype(np.int64)
    return Found(
        stays=values[: len(grid.ids)].astype(np.bool_),
        came=program.came(values),
        bound=bound,
        is_best=bool(result.status == 0),
    )


def _step(grid: Grid) -> float:
    """Return what a saving is at least: one price when all are equal, else a thousandth of the cheapest machine.

    The solver lets rows be off by a millionth: less than that it could not tell from nothing.
    """
    prices = np.unique(grid.prices)
    return float(prices[0]) * (0.999 if len(prices) == 1 else 0.001)


class _Program:
    """Variables: one per machine (1: it stays), then one per shape and machine that may take some of it."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._machines = len(grid.ids)
        self._most = _most(grid)
        self._pairs = np.argwhere(self._most > 0)
        self.width = self._machines + len(self._pairs)
        self.prices = np.concatenate([grid.prices, np.zeros(len(self._pairs))])
        self.lows = np.concatenate([(~grid.may_go).astype(float), np.zeros(len(self._pairs))])
        self.highs = np.concatenate([np.ones(self._machines), self._most[self._most > 0].astype(float)])

    def constraints(self) -> list[LinearConstraint]:
        """Return all of them."""
        return [self._all_find_room(), *self._room(), self._only_where_one_stays(), *self._order()]

    def came(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of each shape come to each machine."""
        table = np.zeros_like(self._grid.here)
        table[self._pairs[:, 0], self._pairs[:, 1]] = values[self._machines :]
        return table

    def _all_find_room(self) -> LinearConstraint:
        """What comes somewhere is what was on machines that go, and the room that stays free."""
        grid = self._grid
        here = np.argwhere(grid.here > 0)
        rows = np.concatenate([self._pairs[:, 0], here[:, 0]])
        columns = np.concatenate([self._machines + np.arange(len(self._pairs)), here[:, 1]])
        values = np.concatenate([np.ones(len(self._pairs)), grid.here[here[:, 0], here[:, 1]]])
        matrix = coo_array((values, (rows, columns)), shape=(len(grid.shapes), self.width))
        total = (grid.here.sum(axis=1) + grid.reserves).astype(float)
        return LinearConstraint(matrix.tocsr(), total, total)

    def _room(self) -> list[LinearConstraint]:
        """No machine takes more than it has free, resource by resource; amounts as shares of that."""
        found = []
        for resource in range(self._grid.free.shape[1]):
            free = np.maximum(1, self._grid.free[:, resource]).astype(float)
            needs = self._grid.needs[self._pairs[:, 0], resource] / free[self._pairs[:, 1]]
            used = np.flatnonzero(needs)
            rows = np.concatenate([self._pairs[used, 1], np.arange(self._machines)])
            columns = np.concatenate([self._machines + used, np.arange(self._machines)])
            values = np.concatenate([needs[used], -np.ones(self._machines)])
            matrix = coo_array((values, (rows, columns)), shape=(self._machines, self.width))
            found.append(LinearConstraint(matrix.tocsr(), -np.inf, 0.0))
        return found

    def _only_where_one_stays(self) -> LinearConstraint:
        """Nothing comes to a machine that goes: said pair by pair, it also tightens the bound."""
        count = len(self._pairs)
        rows = np.concatenate([np.arange(count), np.arange(count)])
        columns = np.concatenate([self._machines + np.arange(count), self._pairs[:, 1]])
        values = np.concatenate([np.ones(count), -self._most[self._most > 0]])
        matrix = coo_array((values, (rows, columns)), shape=(max(1, count), self.width))
        return LinearConstraint(matrix.tocsr(), -np.inf, 0.0)

    def _order(self) -> list[LinearConstraint]:
        """Of machines that are alike, the first ones stay."""
        pairs = [pair for group in _alike(self._grid) for pair in pairwise(group)]
        if not pairs:
            return []
        rows = np.repeat(np.arange(len(pairs)), 2)
        columns = np.array(pairs).reshape(-1)
        values = np.tile([1.0, -1.0], len(pairs))
        matrix = coo_array((values, (rows, columns)), shape=(len(pairs), self.width))
        return [LinearConstraint(matrix.tocsr(), 0.0, np.inf)]


def _most(grid: Grid) -> NDArray[np.int64]:
    """Return how many of each shape may come to each machine at most: by room, labels, limits and their number."""
    total = grid.here.sum(axis=1) + grid.reserves
    most = np.minimum(grid.slots, total[:, None])
    for shape, needs in enumerate(grid.needs):
        asked = np.flatnonzero(needs)
        if asked.size:
            most[shape] = np.minimum(most[shape], (grid.free[:, asked] // needs[asked]).min(axis=1))
    bounded: NDArray[np.int64] = np.clip(most, 0, NO_LIMIT)
    return bounded


def _alike(grid: Grid) -> Sequence[Sequence[int]]:
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for machine in np.flatnonzero(grid.may_go):
        key = (grid.prices[machine], *grid.free[machine], *grid.here[:, machine], *grid.slots[:, machine])
        groups[key].append(int(machine))
    return [group for group in groups.values() if len(group) > 1]
