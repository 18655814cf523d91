"""Replicas that are alike, taken together: the smaller question that both the heuristic and the solver work on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from policies.compaction.problem import Crowd, Problem


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Crowds of the same size that may go to the same machines; one with `per_node` is alone in its shape."""

    crowds: tuple[Crowd, ...]
    needs: Mapping[str, int]
    allowed: frozenset[str]
    per_node: int | None
    places: Mapping[str, int]
    reserve: int

    def slots(self, machine: str) -> int | None:
        """Return how many more replicas its limit per node allows on a machine; None: no limit."""
        return None if self.per_node is None else max(0, self.per_node - self.places.get(machine, 0))


def shapes_of(problem: Problem) -> tuple[Shape, ...]:
    """Return the shapes, the largest first: what is hard to place is placed first."""
    kinds: dict[tuple[object, ...], list[Crowd]] = defaultdict(list)
    allowed: dict[tuple[object, ...], frozenset[str]] = {}
    for crowd in problem.crowds:
        key = (tuple(sorted(crowd.selector.items())), tuple(sorted(crowd.needs.items())))
        if key not in allowed:
            allowed[key] = problem.allowed(crowd)
        alone = crowd.name if crowd.per_node is not None else None
        kinds[(allowed[key], key[1], alone)].append(crowd)
    total = _totals(problem)
    shapes = (_shape(tuple(crowds), key) for key, crowds in kinds.items())
    return tuple(sorted(shapes, key=lambda shape: (-_size(shape.needs, total), shape.crowds[0].name)))


def _shape(crowds: tuple[Crowd, ...], key: tuple[object, ...]) -> Shape:
    places: dict[str, int] = defaultdict(int)
    for crowd in crowds:
        for place, count in crowd.places.items():
            places[place] += count
    allowed = key[0]
    assert isinstance(allowed, frozenset)
    return Shape(
        crowds=crowds,
        needs=crowds[0].needs,
        allowed=allowed,
        per_node=crowds[0].per_node,
        places=dict(places),
        reserve=sum(crowd.reserve for crowd in crowds),
    )


def _totals(problem: Problem) -> Mapping[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for machine in problem.machines:
        for name, amount in machine.room.items():
            totals[name] += amount
    return totals


def _size(needs: Mapping[str, int], totals: Mapping[str, int]) -> float:
    """Return a replica's share of what the whole cluster has, all resources together."""
    return sum(need / totals[name] for name, need in needs.items() if totals.get(name))
