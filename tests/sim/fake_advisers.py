"""Policies of other packages in virtual time: functions of a World that answer with documents, sound or hostile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from reconciler.errors import Retry
from specs.wishes import write_wish
from specs.world import World

Policy = Callable[[World, Any], object]
"""Returns a wish, or any document; raises Retry for a process that ended or was too late."""


class FakeAdvisers:
    """Implements `reconciler.ports.Advisers`. `policies` are those that are enabled."""

    def __init__(self) -> None:
        self.policies: dict[str, Policy] = {}
        self.asked: list[tuple[str, str]] = []

    @property
    def enabled(self) -> frozenset[str]:
        return frozenset(self.policies)

    async def consult(self, policy: str, subjects: Mapping[str, object], world: World) -> Mapping[str, object]:
        self.asked += [(policy, name) for name in subjects]
        return {name: _answer(self.policies[policy], world, subject) for name, subject in subjects.items()}


def _answer(policy: Policy, world: World, subject: object) -> object:
    try:
        answer = policy(world, subject)
    except (Retry, AssertionError):
        raise
    except Exception as error:
        return {"problem": f"it raised {type(error).__name__}: {error}"}
    try:
        return write_wish(answer)
    except TypeError:
        return answer


GARBAGE: tuple[Any, ...] = (
    None,
    [],
    "all",
    {"aim": None},
    {"aim": {"weight": -1}},
    {"aim": {"weight": 10001}},
    {"aim": {"weight": True}},
    {"aim": {"weight": 1e9}},
    {"aim": {"weight": float("nan")}},
    {"aim": {"weight": 100, "replicas": {"Echo": -5}}},
    {"aim": {"weight": 100, "replicas": [1]}},
    {"judgement": {"outcome": "splendid"}},
    {"goBack": {"message": 7}},
    {"setWeights": {"v1": 10000}},
    {"problem": "ValueError: no"},
    {"stand": {"message": "\x1b[2J" * 400}},
    {"apportion": {"zones": {"a": 1.5}}},
    {"apportion": {"zones": {"a": True}, "onDemand": 50}},
    {"apportion": {"zones": {"\x1b[2J": 1}}},
    {"apportion": {"zones": ["a"]}},
    {"apportion": {"onDemand": 101}},
    {"apportion": None},
    {"prefer": {"keep": "n1"}},
    {"prefer": {"first": [1]}},
    {"prefer": {"prices": {"n1": 0}}},
    {"prefer": {"prices": {"n1": float("inf")}}},
    {"prefer": {"prices": {"n1": float("nan")}}},
    {"prefer": {"prices": [["n1", 1]]}},
)


def hostile(seed: int, kind: str) -> Policy:
    """Return a policy that asks for whatever could do harm: too much, back and forth, garbage, silence."""
    dice = Random(seed)

    def ask(world: World, service: Any) -> object:
        if dice.random() < 0.25:
            return dice.choice(GARBAGE)
        if dice.random() < 0.1:
            raise Retry("no answer within 5 s")
        if kind == "analysis":
            return {"judgement": {"outcome": dice.choice(["passing", "failing", "inconclusive"]), "message": "so"}}
        if kind == "rollback":
            return {"goBack": {"message": "because"}} if dice.random() < 0.02 else {"stand": {"message": "let it be"}}
        if kind == "compaction":
            return {"prefer": _greedy(dice, [machine.id for machine in service.problem.machines])}
        if kind == "placement":
            weights = {zone: dice.choice([0, 0, 1, 7, 1000]) for zone in dice.sample(["a", "b", "c", "nowhere", ""], 3)}
            return {"apportion": {"zones": weights, "onDemand": dice.choice([0, 1, 50, 100]), "message": "so"}}
        counts = {name: dice.choice([0, 1, 7, 99_999]) for name in ("Echo", "Backend", "Nobody")}
        return {"aim": {"weight": dice.choice([0, 1, 500, 5000, 9999, 9999]), "replicas": counts}}

    return ask


def _greedy(dice: Random, nodes: list[str]) -> dict[str, Any]:
    """Wish for nodes that must stay, keep those that could go, and make them count for anything."""
    known = [*nodes, "nowhere"]
    prices = {node: dice.choice([0.001, 1, 1_000_000]) for node in known if dice.random() < 0.5}
    keep = [node for node in known if dice.random() < 0.2]
    return {"keep": keep, "first": dice.sample(known, len(known)), "prices": prices, "message": "so"}
