"""Services that roll out at once on nodes with few places left, and what may happen to them meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specs.desired import DesiredService
from specs.memory import Event, Outcome
from tests.builders import service, steps
from tests.sim.codebook import Behaviour
from tests.sim.fake_nodes import make_node
from tests.sim.world import Simulation

Sizes = Mapping[str, int]
"""Deployment -> replicas, each of which takes one place."""


def crowded(*cpus: float) -> Simulation:
    """Return a simulation in which every replica takes a whole CPU of nodes with so many."""
    sim = Simulation()
    sim.nodes.nodes = {node.id: node for node in (make_node(n, "a", cpus=c) for n, c in enumerate(cpus, start=1))}
    sim.book.default = Behaviour(cpus=1.0)
    sim.serve.instance.places_by_deployment = True
    return sim


def spec(version: str, size: int | Sizes = 2, name: str = "chat", **options: Any) -> DesiredService:
    """Return a service that takes its steps without any rest."""
    if not isinstance(size, int):
        options["args"] = {"deployments": dict(size), **options.get("args", {})}
    options = {"steps": steps(50), "deadline": 60, **options}
    return service(name, version, size, scale_down=0, max_request=20, **options)


@dataclass(kw_only=True)
class Crowd:
    """Services s0, s1, ... and the places that are left when all of them have what they are to have."""

    sizes: Sequence[Sizes]
    spare: int
    unavailable: int | str = 0
    surges: Sequence[int] = ()
    """One each where nothing is said."""
    steps: Sequence[tuple[int | str, ...]] = ()
    """50% and then all where nothing is said."""
    apart: int = 0
    """Seconds between two pushes."""
    late: Sizes | None = None
    """A first deployment, called "late", that has its places among the others' and comes in the middle."""

    def __post_init__(self) -> None:
        """Nobody runs anything yet."""
        places = sum(sum(size.values()) for size in (*self.sizes, self.late or {})) + self.spare
        self.sim = crowded(*[1.0] * places)
        self.names = [f"s{number}" for number in range(len(self.sizes))]
        self._specs = {name: self._spec("v1", name) for name in self.names}

    def _spec(self, version: str, name: str) -> DesiredService:
        number = self.names.index(name)
        surge = self.surges[number] if self.surges else 1
        way = steps(*(self.steps[number] if self.steps else (50,)))
        return spec(version, self.sizes[number], name, unavailable=self.unavailable, surge=surge, steps=way)

    def _push(self, *services: DesiredService) -> None:
        self._specs |= {one.name: one for one in services}
        self.sim.push(*self._specs.values())

    async def start(self) -> None:
        """Bring all of them to v1."""
        await self.sim.start()
        self._push()
        await self.sim.settle()

    async def roll_out(self, *names: str) -> None:
        """Push v2 of these services, of all of them if none is named."""
        for name in names or self.names:
            self._push(self._spec("v2", name))
            await self.sim.run(self.apart)

    def come_late(self, loading: int = 90) -> None:
        """Push the service that comes in the middle. It takes so many seconds to load what it is made of."""
        self._push(spec("v2", self.late or {}, "late", args={"start_seconds": loading}, deadline=200))

    async def is_taken_back(self, name: str) -> None:
        """Abort a rollout that is under way; AssertionError when its requests do not come back."""
        refusal = await self.sim.order("abort", name)
        assert not refusal, refusal
        back = lambda: self.sim.weights(name) == {"v1": 100.0}  # noqa: E731
        await self.sim.until(back, within=1500, what=f"{name} is back")

    async def all_arrive(self, *names: str, within: int = 3000) -> None:
        """Wait until these services are at v2, all of them if none is named, and nothing good was blamed."""
        known = names or (*self.names, *(("late",) if self.late else ()))
        arrived = lambda: all(self._stable(name) == "v2" for name in known)  # noqa: E731
        await self.sim.until(arrived, within=within, what=f"{known} at v2")
        await self.sim.settle(within=600)
        taken_back = {e.service for e in self.sim.store._history if e.outcome is Outcome.ROLLED_BACK}
        assert not taken_back & set(known), f"good revisions of {taken_back} were taken back for want of room"

    def _stable(self, name: str) -> str | None:
        memory = self.sim.known(name)
        return memory.stable if memory is not None else None

    def gave_way(self) -> list[Event]:
        """Return what was said of rollouts that gave way."""
        return [event for event in self.sim.watch.events if event.kind == "GaveWay"]
