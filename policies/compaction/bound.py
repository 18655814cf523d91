"""A cost below which no set of machines can hold all replicas, whatever is moved: cheap enough to ask all the time.

For each set of machines that some replicas are tied to (by labels and size), count the cheapest machines of it that
have enough of each resource, and enough places of each size. Sets that do not overlap add up. What replicas need in
two resources at once, and what does not fit side by side, is left to the solver.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from policies.compaction.problem import Machine, Problem, how_many
from policies.compaction.shapes import Shape, shapes_of

NO_LIMIT = 10**9


def lower_bound(problem: Problem) -> float:
    """Return the bound; at least the price of the machines that have to stay."""
    kept = sum(machine.price for machine in problem.machines if machine.kept)
    shapes = tuple(shape for shape in shapes_of(problem) if _demand(shape))
    pools = sorted({shape.allowed for shape in shapes}, key=lambda pool: (len(pool), sorted(pool)))
    extras = {pool: _extra(problem, pool, [s for s in shapes if s.allowed <= pool]) for pool in pools}
    apart: set[str] = set()
    total = 0.0
    for pool in pools:
        if not pool & apart:
            total += extras[pool]
            apart |= pool
    return kept + max([total, *extras.values()])


def _demand(shape: Shape) -> int:
    """Return how many of a shape need a place in `allowed`; those on machines that may not take them are left out."""
    return shape.reserve + sum(count for place, count in shape.places.items() if place in shape.allowed)


def _extra(problem: Problem, pool: frozenset[str], shapes: Sequence[Shape]) -> float:
    """Return the least price of machines of a pool that need not stay and yet are needed."""
    machines = [problem.machine[name] for name in sorted(pool)]
    demands: dict[str, int] = defaultdict(int)
    for shape in shapes:
        for name, need in shape.needs.items():
            demands[name] += need * _demand(shape)
    by_resource = (
        _cheapest(machines, {m.id: m.room.get(name, 0) for m in machines}, demand) for name, demand in demands.items()
    )
    by_shape = (_cheapest(machines, _slots(machines, shape), _demand(shape)) for shape in shapes)
    return max([0.0, *by_resource, *by_shape])


def _slots(machines: Iterable[Machine], shape: Shape) -> Mapping[str, int]:
    """Return how many of a shape an empty machine holds; one that has too many already keeps them."""
    most = NO_LIMIT if shape.per_node is None else shape.per_node
    return {
        machine.id: max(how_many(shape.needs, machine.room, most), shape.places.get(machine.id, 0))
        for machine in machines
        if machine.id in shape.allowed
    }


def _cheapest(machines: Sequence[Machine], holds: Mapping[str, int], demand: int) -> float:
    """Return the least price of machines that may go whose amounts, with those that stay, reach `demand`.

    With one price for all, machines are counted whole; with several, the last one in part.
    """
    left = demand - sum(holds.get(machine.id, 0) for machine in machines if machine.kept)
    open_ = [machine for machine in machines if not machine.kept and holds.get(machine.id, 0) > 0]
    is_whole = len({machine.price for machine in open_}) <= 1
    price = 0.0
    for machine in sorted(open_, key=lambda machine: machine.price / holds[machine.id]):
        if left <= 0:
            break
        held = holds[machine.id]
        price += machine.price if is_whole else machine.price * min(1.0, left / held)
        left -= held
    return price
