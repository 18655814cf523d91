"""A good plan at once: empty one machine after the other into what the others have free, the tightest fit first.

Several orders are tried; the best result is the answer, and the start of the exact search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.compaction.problem import Problem
from policies.compaction.shapes import Shape

NO_LIMIT = 2**40
TOLERANCE = 1e-6

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A problem as tables: machines are rows of `free` (by resource), columns of `here` (by shape)."""

    ids: tuple[str, ...]
    prices: NDArray[np.float64]
    may_go: NDArray[np.bool_]
    free: Counts
    here: Counts
    needs: Counts
    slots: Counts
    """How many more of each shape each machine may take by labels and limits; room is another matter."""
    reserves: Counts
    shapes: tuple[Shape, ...]


def grid_of(problem: Problem, shapes: Sequence[Shape]) -> Grid:
    """Return the tables."""
    names = sorted({name for shape in shapes for name in shape.needs})
    machines = problem.machines
    free = [[max(0, problem.free[machine.id].get(name, 0)) for name in names] for machine in machines]
    return Grid(
        ids=tuple(machine.id for machine in machines),
        prices=np.array([machine.price for machine in machines], dtype=np.float64),
        may_go=np.array([not machine.kept for machine in machines], dtype=np.bool_),
        free=np.array(free, dtype=np.int64).reshape(len(machines), len(names)),
        here=_table([[shape.places.get(machine.id, 0) for machine in machines] for shape in shapes], len(machines)),
        needs=_table([[shape.needs.get(name, 0) for name in names] for shape in shapes], len(names)),
        slots=_table([[_slots(shape, machine.id) for machine in machines] for shape in shapes], len(machines)),
        reserves=np.array([shape.reserve for shape in shapes], dtype=np.int64),
        shapes=tuple(shapes),
    )


def _table(rows: list[list[int]], width: int) -> Counts:
    return np.array(rows, dtype=np.int64).reshape(len(rows), width)


def _slots(shape: Shape, machine: str) -> int:
    if machine not in shape.allowed:
        return 0
    limit = shape.slots(machine)
    return NO_LIMIT if limit is None else limit


@dataclass(kw_only=True)
class Packing:
    """A plan in the making: what has gone, what came where, what is still free."""

    gone: NDArray[np.bool_]
    came: Counts
    free: Counts

    def copy(self) -> Packing:
        """Return another one that starts from here."""
        return Packing(gone=self.gone.copy(), came=self.came.copy(), free=self.free.copy())


def start(grid: Grid) -> Packing | None:
    """Return the packing with nothing gone and room kept free as asked; None when there is too little of it."""
    packing = Packing(
        gone=np.zeros(len(grid.ids), dtype=np.bool_), came=np.zeros_like(grid.here), free=grid.free.copy()
    )
    return packing if place(grid, packing, grid.reserves) else None


def place(grid: Grid, packing: Packing, counts: Counts) -> bool:
    """Find room for so many of each shape; False, with the packing half changed, when there is not enough."""
    if (counts @ grid.needs > packing.free[~packing.gone].sum(axis=0)).any():
        return False
    return all(_place_shape(grid, packing, int(shape), int(counts[shape])) for shape in np.flatnonzero(counts))


def _place_shape(grid: Grid, packing: Packing, shape: int, count: int) -> bool:
    """Fill the machines on which the least is left over, so that large holes stay for large replicas."""
    needs = grid.needs[shape]
    asked = np.flatnonzero(needs)
    room = np.minimum(grid.slots[shape] - packing.came[shape], NO_LIMIT)
    if asked.size:
        room = np.minimum(room, (packing.free[:, asked] // needs[asked]).min(axis=1))
    room[packing.gone] = 0
    candidates = np.flatnonzero(room > 0)
    if room[candidates].sum() < count:
        return False
    scale = np.maximum(1, grid.free.max(axis=0))
    after = (packing.free[candidates] - np.minimum(room[candidates], count)[:, None] * needs) / scale
    for machine in candidates[np.argsort(after.sum(axis=1), kind="stable")]:
        taken = min(count, int(room[machine]))
        packing.came[shape, machine] += taken
        packing.free[machine] -= taken * needs
        count -= taken
        if count == 0:
            return True
    return count == 0


def without(grid: Grid, packing: Packing, machine: int) -> Packing | None:
    """Return the packing with one more machine gone, or None when what is on it has no room elsewhere."""
    trial = packing.copy()
    trial.gone[machine] = True
    arrived = trial.came[:, machine].copy()
    trial.came[:, machine] = 0
    return trial if place(grid, trial, grid.here[:, machine] + arrived) else None


Order = Callable[[Grid], Iterable[int]]


def _by(key: Callable[[Grid], NDArray[np.float64]]) -> Order:
    def order(grid: Grid) -> Iterable[int]:
        return [int(machine) for machine in np.argsort(key(grid), kind="stable") if grid.may_go[machine]]

    return order


def _load(grid: Grid) -> NDArray[np.float64]:
    """Return what would have to move from each machine, as shares of the cluster's largest free amounts."""
    scale = np.maximum(1, grid.free.max(axis=0) if grid.free.size else 1)
    loads: NDArray[np.float64] = (grid.here.T @ grid.needs / scale).sum(axis=1)
    return loads


def _size(grid: Grid) -> NDArray[np.float64]:
    sizes: NDArray[np.float64] = (grid.free.sum(axis=1) + (grid.here.T @ grid.needs).sum(axis=1)).astype(np.float64)
    return sizes


ORDERS: tuple[Order, ...] = (
    _by(lambda grid: grid.here.sum(axis=0) / grid.prices),
    _by(lambda grid: _load(grid) / grid.prices),
    _by(lambda grid: -grid.prices + _load(grid) * 1e-9),
    _by(_load),
    _by(lambda grid: _size(grid) / grid.prices),
)
"""Few replicas for the price, little to move for the price, dear ones, little to move at all, small ones."""


def pack(grid: Grid, begin: Packing, bound: float = 0.0) -> Packing:
    """Return the cheapest result of all orders; of equals, the one that moves the least.

    What costs no more than `bound` cannot be bettered, and ends the search.
    """
    best: Packing | None = None
    for order in ORDERS:
        packing = _emptied(grid, begin, order(grid))
        if best is None or _rank(grid, packing) < _rank(grid, best):
            best = packing
    assert best is not None
    return best if cost(grid, best) <= bound + TOLERANCE else _exchanged(grid, best, ORDERS[0](grid))


def _rank(grid: Grid, packing: Packing) -> tuple[float, int]:
    return round(cost(grid, packing), 6), moved(grid, packing)


def _emptied(grid: Grid, begin: Packing, order: Iterable[int]) -> Packing:
    packing = begin
    for machine in order:
        packing = without(grid, packing, machine) or packing
    return packing


def _exchanged(grid: Grid, packing: Packing, machines: Iterable[int]) -> Packing:
    """Take everything that moved up again, without one more machine: a better fit may be found from scratch."""
    for machine in machines:
        if packing.gone[machine]:
            continue
        trial = Packing(gone=packing.gone.copy(), came=np.zeros_like(packing.came), free=grid.free.copy())
        trial.gone[machine] = True
        counts = grid.here[:, trial.gone].sum(axis=1) + grid.reserves
        packing = trial if place(grid, trial, counts) else packing
    return packing


def cost(grid: Grid, packing: Packing) -> float:
    """Return the price of what stays."""
    return float(grid.prices[~packing.gone].sum())


def moved(grid: Grid, packing: Packing) -> int:
    """Return how many replicas move."""
    return int(grid.here[:, packing.gone].sum())
