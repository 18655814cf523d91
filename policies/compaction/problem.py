"""What a compaction plan is asked and what it answers: plain values, amounts in whole units.

A node that stays keeps what runs on it: Serve moves a replica only when its node is drained. So the question is
which nodes go, and where what runs on those finds room on the nodes that stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from specs.selectors import matches

UNITS = 10_000
"""Ray counts resources in ten-thousandths: 0.1 CPU ten times over is exactly one."""


def in_units(resources: Mapping[str, float]) -> Mapping[str, int]:
    """Return amounts in ten-thousandths, without those that are nothing."""
    return {name: units for name, amount in sorted(resources.items()) if (units := round(amount * UNITS))}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One node. `room` is what replicas that may move can take of it, those that are on it now included."""

    id: str
    room: Mapping[str, int]
    price: float = 1.0
    labels: Mapping[str, str] = field(default_factory=dict)
    kept: str = ""
    """Why it cannot go, in words for a person; "" when it may."""
    takes: bool = True
    """Whether new replicas may come: a draining node takes none."""


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Identical replicas: one deployment of one cell, or room that is to stay free (`reserve`)."""

    name: str
    needs: Mapping[str, int]
    selector: Mapping[str, str] = field(default_factory=dict)
    per_node: int | None = None
    """`max_replicas_per_node`."""
    places: Mapping[str, int] = field(default_factory=dict)
    """How many of them are on each machine."""
    reserve: int = 0
    """So many places of this size must stay free: what moves later (a rollout's surge) needs them."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """All machines that replicas may live on, and all replicas that may move, plus room to keep free."""

    machines: tuple[Machine, ...]
    crowds: tuple[Crowd, ...]

    @cached_property
    def machine(self) -> Mapping[str, Machine]:
        """Return machines by id."""
        return {machine.id: machine for machine in self.machines}

    @property
    def cost(self) -> float:
        """Return the price of all machines."""
        return sum(machine.price for machine in self.machines)

    def allowed(self, crowd: Crowd) -> frozenset[str]:
        """Return the machines to which a replica may come by its labels and size."""
        return frozenset(
            machine.id
            for machine in self.machines
            if machine.takes and matches(machine.labels, crowd.selector) and fits(crowd.needs, machine.room)
        )

    @cached_property
    def free(self) -> Mapping[str, dict[str, int]]:
        """Return what is left of each machine's room beside the replicas on it now; below 0 where it is overfull."""
        left = {machine.id: dict(machine.room) for machine in self.machines}
        for crowd in self.crowds:
            for place, count in crowd.places.items():
                for name, need in crowd.needs.items():
                    left[place][name] = left[place].get(name, 0) - need * count
        return left


@dataclass(frozen=True, kw_only=True)
class Move:
    """`count` replicas of a crowd leave one machine for another."""

    crowd: str
    origin: str
    target: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Which machines go, and where their replicas have room.

    `bound` is a cost below which no set of machines can hold everything with these moves; `is_best` says that the
    plan costs no more than that.
    """

    freed: tuple[str, ...]
    moves: tuple[Move, ...]
    cost: float
    bound: float
    is_best: bool
    by: str = "heuristic"
    """Who found it: the heuristic, or the solver."""
    spare: tuple[Move, ...] = ()
    """Where the room is that stays free; these have no origin."""

    @property
    def gap(self) -> float:
        """Return by how much it may be above the best, as a fraction of the best."""
        return 0.0 if self.is_best or self.bound <= 0 else max(0.0, self.cost / self.bound - 1)


def fits(needs: Mapping[str, int], room: Mapping[str, int]) -> bool:
    """Return whether one replica has room."""
    return all(room.get(name, 0) >= need for name, need in needs.items())


def how_many(needs: Mapping[str, int], room: Mapping[str, int], most: int) -> int:
    """Return how many replicas have room, `most` at most."""
    for name, need in needs.items():
        most = min(most, room.get(name, 0) // need)
    return max(0, most)
