"""Replicas above target over all services: `budget.maxSurgeReplicas`, handed out whole when a rollout starts.

A rollout gets at its start all that it will use, or waits: two that each had half would wait for each other. What it
got is its own until nothing of it is above target any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from policies.budget import Budget
from policies.view import ServiceView
from policies.window import is_compared


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a rollout may use per deployment; nothing is written for those that get what their spec allows."""

    surge: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Not now: `least` is the smallest surge with which it could move at all."""

    least: int
    message: str


def ask(view: ServiceView, held: Mapping[str, int], limit: int) -> Grant | Refusal:
    """Return the surge of a rollout that is about to start beside what other services hold.

    Each deployment that must not be short of replicas, or whose requests are to be compared, needs at least one;
    beyond that each gets what is left, up to its own `maxSurge`.
    """
    if view.memory.stable is None:
        return Grant(surge={})  # There is nothing to be replaced.
    free = replace(view, memory=replace(view.memory, surge={}))
    budgets = {name: free.budget(name) for name in free.deployments}
    least = _least(view, budgets, limit)
    left, needed = limit - sum(held.values()), sum(least.values())
    if needed > left:
        return Refusal(least=needed, message=_refusal(needed, left, held, limit))
    if sum(budget.surge for budget in budgets.values()) <= left:
        return Grant(surge={})
    granted = dict(least)
    for name, budget in budgets.items():
        more = min(budget.surge, granted[name] + left - sum(granted.values()))
        granted[name] = max(granted[name], more)
    return Grant(surge=granted)


def _least(view: ServiceView, budgets: Mapping[str, Budget], limit: int) -> dict[str, int]:
    """Return the surge per deployment without which a rollout waits, rather than start with less.

    A single replica without surge is stopped before its successor starts. Where both are to be compared the rollout
    would then wait for a person at its analysis: it waits for the surge instead, if there ever can be so much.
    """
    least = {name: 0 if budget.unavailable else min(budget.surge, 1) for name, budget in budgets.items()}
    if not is_compared(view):
        return least
    both = {
        name: min(budget.surge, 1) if replace(budget, surge=0).stops_before_start else least[name]
        for name, budget in budgets.items()
    }
    return both if sum(both.values()) <= limit else least


def _refusal(needed: int, left: int, held: Mapping[str, int], limit: int) -> str:
    holders = ", ".join(f"{name} {count}" for name, count in sorted(held.items()) if count)
    by = f" (held: {holders})" if holders else ""
    text = f"needs {needed} surge replica(s); {max(0, left)} of budget.maxSurgeReplicas {limit} left{by}"
    return (
        f"{text}. It can never start with so few: raise the budget, or set maxUnavailable" if needed > limit else text
    )


def held_by(view: ServiceView) -> int:
    """Return the surge that a service holds: its whole grant until all that was replaced is gone.

    While something still stops, what takes its place may grow, so what is above target now is not enough to count.
    """
    memory = view.memory
    is_first = memory.stable is None and not memory.outgoing
    if is_first or not memory.is_moving:
        return 0
    budgets = {name: view.budget(name) for name in view.deployments}
    return sum(max(budget.surge, budget.surge - view.room(name)) for name, budget in budgets.items())
