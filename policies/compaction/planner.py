"""The plan: a heuristic's answer at once, bettered or confirmed by the exact search for as long as it may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from policies.compaction.bound import lower_bound
from policies.compaction.check import violations
from policies.compaction.exact import search
from policies.compaction.heuristic import Grid, Packing, cost, grid_of, pack, start
from policies.compaction.problem import Answer, Move, Problem
from policies.compaction.shapes import Shape, shapes_of

TOLERANCE = 1e-6


def plan(problem: Problem, seconds: float = 1.8, spent: Callable[[], float] = lambda: 0.0) -> Answer:
    """Return the cheapest answer found in about so many `seconds`, of which `spent` says how many are over.

    The solver has what the heuristic leaves of them; with 0 it is the heuristic alone. Every answer has passed the
    check. An answer of the solver that does not is dropped: it counts in fractions.
    """
    problem = with_room_for_reserves(problem)
    grid = grid_of(problem, shapes_of(problem))
    begin = start(grid)
    assert begin is not None
    bound = lower_bound(problem)
    packing = pack(grid, begin, bound)
    known = cost(grid, packing)
    bound = min(known, bound)
    answer = answer_of(problem, grid, packing, bound, by="heuristic")
    left = seconds - spent()
    if known <= bound + TOLERANCE or left <= 0:
        return answer
    found = search(grid, known, left)
    bound = known if found.is_best and found.stays is None else max(bound, found.bound)
    if found.stays is not None and found.came is not None:
        better = Packing(gone=~found.stays, came=found.came, free=grid.free)
        better_answer = answer_of(problem, grid, better, min(bound, cost(grid, better)), by="solver")
        if not violations(problem, better_answer):
            return better_answer
        bound = min(bound, found.bound)
    return answer_of(problem, grid, packing, min(known, bound), by="heuristic")


def with_room_for_reserves(problem: Problem) -> Problem:
    """Return the problem with the reserves that there is room for now: a cluster that is full may still hold a plan."""
    if start(grid_of(problem, shapes_of(problem))) is not None:
        return problem
    crowds = tuple(replace(crowd, reserve=0) for crowd in problem.crowds)
    for number, crowd in enumerate(problem.crowds):
        for reserve in range(crowd.reserve, 0, -1):
            trial = (*crowds[:number], replace(crowd, reserve=reserve), *crowds[number + 1 :])
            tried = replace(problem, crowds=trial)
            if start(grid_of(tried, shapes_of(tried))) is not None:
                crowds = trial
                break
    return replace(problem, crowds=crowds)


def answer_of(problem: Problem, grid: Grid, packing: Packing, bound: float, *, by: str) -> Answer:
    """Return a packing in words of machines and crowds."""
    moves: list[Move] = []
    spare: list[Move] = []
    for number, shape in enumerate(grid.shapes):
        arrivals = [
            [grid.ids[place], int(packing.came[number, place])] for place in np.flatnonzero(packing.came[number])
        ]
        moves += _dealt(_departures(grid, packing, shape), arrivals)
        spare += _dealt([(crowd.name, "", crowd.reserve) for crowd in shape.crowds], arrivals)
    price = cost(grid, packing)
    return Answer(
        freed=tuple(sorted(grid.ids[place] for place in np.flatnonzero(packing.gone))),
        moves=tuple(moves),
        spare=tuple(spare),
        cost=price,
        bound=bound,
        is_best=price <= bound + TOLERANCE,
        by=by,
    )


def _departures(grid: Grid, packing: Packing, shape: Shape) -> list[tuple[str, str, int]]:
    gone = {grid.ids[place] for place in np.flatnonzero(packing.gone)}
    return [
        (crowd.name, place, count)
        for crowd in shape.crowds
        for place, count in sorted(crowd.places.items())
        if place in gone and count
    ]


def _dealt(departures: Sequence[tuple[str, str, int]], arrivals: list[list[object]]) -> list[Move]:
    """Send each departure to the first places that are left; what they are called does not matter, they are alike."""
    moves = []
    for name, origin, number in departures:
        left = number
        while left and arrivals:
            target, room = arrivals[0]
            assert isinstance(target, str)
            assert isinstance(room, int)
            taken = min(left, room)
            moves.append(Move(crowd=name, origin=origin, target=target, count=taken))
            left -= taken
            arrivals[0][1] = room - taken
            if room == taken:
                arrivals.pop(0)
    return moves
