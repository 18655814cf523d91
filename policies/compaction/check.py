"""An answer is believed only after this check, which shares nothing with how answers are found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from policies.compaction.problem import Answer, Problem
from specs.selectors import matches


def violations(problem: Problem, answer: Answer) -> tuple[str, ...]:
    """Return what is wrong with an answer, in words; nothing when it can be carried out."""
    freed = set(answer.freed)
    wrong = [
        f"{machine.id} cannot go: {machine.kept}"
        for machine in problem.machines
        if machine.id in freed and machine.kept
    ]
    after = _places_after(problem, answer, wrong)
    wrong += _left_behind(problem, freed, after)
    wrong += _wrong_guests(problem, answer)
    wrong += _unreserved(problem, answer)
    wrong += _overfull(problem, answer, after)
    return tuple(wrong)


def may_still_go(problem: Problem, before: Problem, answer: Answer, node: str) -> bool:
    """Return whether one machine of the answer to `before` can go by a later problem, too.

    What changed elsewhere does not matter: a sick replica that Serve starts anew on ever other nodes would make every
    plan one for another moment.
    """
    machines, crowds = problem.machine.keys(), {crowd.name for crowd in problem.crowds}
    moves = tuple(move for move in answer.moves if move.origin == node)
    if node not in machines or any(move.target not in machines or move.crowd not in crowds for move in moves):
        return False
    reserves = {crowd.name: crowd.reserve for crowd in before.crowds}
    if any(crowd.reserve > reserves.get(crowd.name, 0) for crowd in problem.crowds):
        return False
    spare = tuple(move for move in answer.spare if move.target in machines and move.crowd in crowds)
    found: Counter[str] = Counter()
    for move in spare:
        found[move.crowd] += move.count
    # A cluster without room for all that is to stay free has plans with the room that there is.
    kept = tuple(replace(crowd, reserve=min(crowd.reserve, found[crowd.name])) for crowd in problem.crowds)
    return not violations(replace(problem, crowds=kept), replace(answer, freed=(node,), moves=moves, spare=spare))


def _places_after(problem: Problem, answer: Answer, wrong: list[str]) -> dict[str, Counter[str]]:
    after = {crowd.name: Counter(crowd.places) for crowd in problem.crowds}
    for move in answer.moves:
        if move.origin not in answer.freed or move.target in answer.freed:
            wrong.append(f"{move.crowd} moves from {move.origin} to {move.target}: only freed machines are left")
        after[move.crowd][move.origin] -= move.count
        after[move.crowd][move.target] += move.count
    return after


def _left_behind(problem: Problem, freed: set[str], after: dict[str, Counter[str]]) -> list[str]:
    wrong = []
    for crowd in problem.crowds:
        if sum(after[crowd.name].values()) != sum(crowd.places.values()):
            wrong.append(f"{crowd.name} has another number of replicas afterwards")
        wrong += [f"{crowd.name} is still on {place}" for place in sorted(freed) if after[crowd.name][place] != 0]
    return wrong


def _wrong_guests(problem: Problem, answer: Answer) -> list[str]:
    crowds = {crowd.name: crowd for crowd in problem.crowds}
    return [
        f"{move.crowd} may not come to {move.target}"
        for move in (*answer.moves, *answer.spare)
        if not problem.machine[move.target].takes
        or not matches(problem.machine[move.target].labels, crowds[move.crowd].selector)
    ]


def _unreserved(problem: Problem, answer: Answer) -> list[str]:
    found: Counter[str] = Counter()
    for move in answer.spare:
        found[move.crowd] += 0 if move.target in answer.freed else move.count
    return [
        f"{crowd.name}: room for {crowd.reserve} more is to stay free, there is some for {found[crowd.name]}"
        for crowd in problem.crowds
        if found[crowd.name] < crowd.reserve
    ]


def _overfull(problem: Problem, answer: Answer, after: dict[str, Counter[str]]) -> list[str]:
    """Check room and limits of every machine that something comes to; what was too full before stays as it was."""
    wrong = []
    used = {name: Counter(places) for name, places in after.items()}
    for move in answer.spare:
        used[move.crowd][move.target] += move.count
    left = {machine.id: Counter(machine.room) for machine in problem.machines}
    arrivals = {move.target for move in (*answer.moves, *answer.spare)}
    for crowd in problem.crowds:
        for place in sorted(arrivals):
            count = used[crowd.name][place]
            if crowd.per_node is not None and count > max(crowd.per_node, crowd.places.get(place, 0)):
                wrong.append(f"{crowd.name}: {count} replicas on {place}, {crowd.per_node} at most")
            left[place].subtract({name: need * count for name, need in crowd.needs.items()})
    for place in sorted(arrivals):
        wrong += [f"{place} has {-amount} too little {name}" for name, amount in left[place].items() if amount < 0]
    return wrong
