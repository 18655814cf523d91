"""What another package's compaction policy wishes, and what is left of it: fewer nodes to choose from, and an order.

A drain cannot be taken back. So a policy that fails is waited for, unlike elsewhere: nothing is begun that it might
have wanted to leave alone. What was begun goes on, and a person's order goes past it.
"""

from __future__ import annotations

from dataclasses import replace

from policies.compaction.situation import Situation
from policies.compaction.steps import Wait
from policies.registry import COMPACTION, unknown_policy
from specs.compaction import CompactionSettings
from specs.wishes import Advice, PolicyKind, Prefer, Stand, name_of, policy_id, with_message


def asks(settings: CompactionSettings) -> str:
    """Return the policy of another package that the ClusterPolicy names, "" for none."""
    return "" if settings.policy in COMPACTION else policy_id(PolicyKind.COMPACTION, settings.policy)


def is_unknown(settings: CompactionSettings, enabled: frozenset[str]) -> Wait | None:
    """Return why a policy that is named cannot be asked, None when it can."""
    if asks(settings) in enabled:
        return None
    return _without(unknown_policy(PolicyKind.COMPACTION, settings.policy, enabled))


def heard(advice: Advice) -> Prefer | Wait:
    """Return what to go by, or why nothing is begun now."""
    match advice.wish:
        case Prefer() as wish:
            return wish
        case Stand(message=message):
            return Wait(state="Waiting", message=f"policy {name_of(advice.policy)}: {message or 'it gave no reason'}")
        case _:
            return _without(f"policy {advice.policy} fails: {advice.problem}")


def _without(why: str) -> Wait:
    return Wait(state="Waiting", message=f"{why}; no node is begun without it, heliostat compaction --apply is")


def preferred(situation: Situation, wish: Prefer, policy: str) -> Situation:
    """Return the question with a wish in it: nodes that stay stay, whatever it says of them."""
    problem, keep = situation.problem, frozenset(wish.keep)
    why = with_message(f"policy {name_of(policy)} keeps it", wish.message)
    machines = tuple(
        replace(
            machine,
            kept=machine.kept or (why if machine.id in keep else ""),
            price=wish.prices.get(machine.id, machine.price),
        )
        for machine in problem.machines
    )
    own = {machine.id: machine.price for machine in problem.machines}
    return replace(situation, problem=replace(problem, machines=machines), first=wish.first, own_prices=own)


def in_words(wish: Prefer) -> str:
    """Return a wish in a few words."""
    counts = (("keep", len(wish.keep)), ("empty first", len(wish.first)), ("count anew", len(wish.prices)))
    parts = [f"{verb} {number} node(s)" for verb, number in counts if number]
    return with_message(", ".join(parts) or "no node in particular", wish.message)
