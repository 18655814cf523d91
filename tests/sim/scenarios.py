"""Random lives of services: specs, code good and bad, what people do, and accidents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from specs.analysis import Baseline
from specs.desired import ClusterSettings, DesiredService, FixedScale, Pause, PruneSettings
from tests.builders import Sizes, amount, gate, seconds, service, steps
from tests.sim.fake_gates import MOODS
from tests.sim.serve_model import Timing
from tests.sim.world import Simulation

NAMES = ("alpha", "beta", "gamma")

CODE: Mapping[str, Mapping[str, Any]] = {
    "good": {},
    "slow": {"build_seconds": 20, "start_seconds": 10},
    "unbuildable": {"fail_build": "ModuleNotFoundError: No module named 'nope'"},
    "unstartable": {"fail_start": "RuntimeError: no weights"},
    "sick": {"sick_seconds": 15},
    "lame": {"sick_seconds": 15, "start_seconds": 10},
    "homeless": {"never_schedules": True},
    "erring": {"error_rate": 0.1},
    "dragging": {"tail_share": 0.1},
}
"""What a revision's code does, as args of the simulated application."""

GOOD = ("good", "slow")
LAST = "last"
"""The version that every story ends with; it is good, and must win."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What stays the same over a service's revisions."""

    sizes: Sizes
    surge: int | str
    unavailable: int | str
    steps: tuple[int | str, ...]
    min_ready: int
    scale_down: int
    code: tuple[str, ...]
    """The behaviour of versions v0, v1, ..."""
    window: int = 3
    bake: int = 0
    gates: tuple[str, ...] = ()
    """When others are asked; a dash before it means that they are only told."""
    asks: bool = False
    """Whether its spec has an `analysis` block."""
    fresh: bool = False
    """Whether that compares with a fresh baseline."""
    forms: tuple[Sizes, ...] = ()
    """The deployments, and how they are scaled, of versions v1, v2, ... and of the last one; those of v0 if none."""

    def sizes_at(self, version: int | str) -> Sizes:
        """Return a version's deployments."""
        if not self.forms or version == 0:
            return self.sizes
        return self.forms[-1] if isinstance(version, str) else self.forms[(version - 1) % len(self.forms)]

    def spec(self, name: str, version: int | str, *, plus: int = 0, suspend: bool = False) -> DesiredService:
        """Return the service at a version; `plus` changes its fixed counts."""
        listed = self.sizes_at(version)
        sizes = {k: max(1, size + plus) if isinstance(size, int) else size for k, size in listed.items()}
        final = version == LAST
        wanted = service(
            name,
            version if isinstance(version, str) else f"v{version}",
            sizes,
            args=self._args(version),
            steps=steps(*self.steps),
            surge=self.surge,
            unavailable=self.unavailable,
            min_ready=self.min_ready,
            scale_down=self.scale_down,
            window=self.window,
            bake=self.bake,
            deadline=90,
            max_request=20,
            suspend=suspend,
            gates=tuple(
                gate(f"gate{number}", at.removeprefix("-"), kind="notify" if at.startswith("-") else "confirm")
                for number, at in enumerate(self.gates)
            ),
            analysis=self._analysis() if self.asks else None,
        )
        if not final:
            return wanted
        ending = tuple(Pause(duration=seconds(5)) if isinstance(s, Pause) else s for s in wanted.rollout.steps)
        return replace(wanted, rollout=replace(wanted.rollout, steps=ending))

    def _analysis(self) -> dict[str, Any]:
        return {"min_requests": 20, "baseline": Baseline.FRESH if self.fresh else Baseline.STABLE}

    def _args(self, version: int | str) -> dict[str, Any]:
        code = CODE[self.code[version % len(self.code)]] if isinstance(version, int) else {}
        listed = self.sizes_at(version)
        counts = {name: size if isinstance(size, int) else size[0] if size else 2 for name, size in listed.items()}
        return {**code, "deployments": counts, "version": str(version)}

    def is_good(self, version: str) -> bool:
        return version == LAST or self.code[int(version.removeprefix("v")) % len(self.code)] in GOOD


@dataclass(frozen=True, kw_only=True)
class Act:
    """`what` happens `after` seconds, to `service` where that makes sense, with a number that it may need."""

    after: int
    what: str
    service: int
    number: int


@dataclass(frozen=True, kw_only=True)
class Story:
    """One random life."""

    seed: int
    shapes: tuple[Shape, ...]
    acts: tuple[Act, ...]
    drain: int = 25
    """Seconds that a stopping replica holds its place; longer than a progress deadline with long streams."""
    is_direct: bool = True

    @property
    def specs(self) -> dict[str, DesiredService]:
        return {name: shape.spec(name, 0) for name, shape in zip(NAMES, self.shapes, strict=False)}


# -- strategies --------------------------------------------------------------------------------------------


def _leaves_room(shape: Shape) -> bool:
    """The rule of the spec: surge and unavailable must not both round to 0; autoscaling needs surge."""
    sized = [entry for sizes in (shape.sizes, *shape.forms) for entry in sizes.items()]
    for name, size in sized:
        counts = range(size[0], size[1] + 1) if isinstance(size, tuple) else (size,)
        for count in counts:
            if count is None:
                continue
            rollout = shape.spec(name, 0).rollout
            surge, unavailable = rollout.max_surge.round_up(count), rollout.max_unavailable.round_down(count)
            if surge + unavailable == 0 or (surge == 0 and isinstance(size, tuple)):
                return False
    return True


fixed = st.integers(1, 6)
bounds = st.tuples(st.integers(1, 3), st.integers(0, 3)).map(lambda pair: (pair[0], pair[0] + pair[1]))
sizes = st.one_of(
    st.fixed_dictionaries({"Echo": fixed}),
    st.fixed_dictionaries({"Echo": fixed, "Backend": st.integers(1, 3)}),
    st.fixed_dictionaries({"Echo": fixed, "Backend": st.none()}),
    st.fixed_dictionaries({"Echo": bounds}),
    st.fixed_dictionaries({"Echo": bounds, "Backend": st.integers(1, 3)}),
)
step_lists = st.sampled_from(
    [
        *[(), (50,), (10, "5"), (10, "5", 50, "5"), (25, 50, 75), (1, "20", 99), (50, ""), ("10", 40)],
        *[(33, "5", 67, "5"), ("x=1", "8", 40)],
    ]
)
shapes = st.builds(
    Shape,
    sizes=sizes,
    surge=st.sampled_from([0, 1, 1, 2, "25%", "50%", "100%"]),
    unavailable=st.sampled_from([0, 0, 0, 1, "25%", "50%"]),
    steps=step_lists,
    min_ready=st.sampled_from([0, 4]),
    scale_down=st.sampled_from([0, 15]),
    window=st.sampled_from([3, 3, 1, 0]),
    bake=st.sampled_from([0, 0, 25]),
    code=st.tuples(st.just("good"), *[st.sampled_from([*CODE, "good"])] * 3),
).filter(_leaves_room)

reshaped = st.builds(
    lambda shape, forms: replace(shape, forms=tuple(forms)), shapes, st.lists(sizes, min_size=1, max_size=4)
)
reshaped = reshaped.filter(_leaves_room)

ORDERS = ("abort", "retry", "promote", "full", "pause", "rollback")
PEOPLE = ("push", "push", "push", "revert", "scale", "suspend", "leave", *ORDERS)
OUTAGES = ("ray", "gateway", "git", "writes", "disk", "clock")
LOSSES = ("remove", "head", "forget", "drain", "node", "demand", "meddle")
ACCIDENTS = (*OUTAGES, *LOSSES, "kill", "crash", "crash")


gate_lists = st.sampled_from(
    [
        ("beforeStep",),
        ("beforePromotion",),
        ("beforeStep", "beforeStep", "-beforeStep"),
        ("beforePromotion", "-beforePromotion", "-afterRollback"),
        ("-beforeStep", "-beforePromotion", "-afterRollback"),
        ("beforeStep", "beforePromotion", "-afterRollback"),
    ]
)
gated_shapes = st.builds(lambda shape, gates: replace(shape, gates=gates), shapes, gate_lists)


def stories(
    *whats: str, services: int = 2, acts: int = 8, gated: bool = False, reshapes: bool = False
) -> st.SearchStrategy[Story]:
    """Return random stories in which `whats` happen; `gated` ones ask others before they go on.

    With `reshapes` revisions differ in their deployments and in how these are scaled.
    """
    one = reshaped if reshapes else gated_shapes if gated else shapes
    act = st.builds(
        Act,
        after=st.sampled_from([0, 1, 3, 8, 20, 45]),
        what=st.sampled_from(whats or (*PEOPLE, *ACCIDENTS)),
        service=st.integers(0, services - 1),
        number=st.integers(0, 11),
    )
    return st.builds(
        Story,
        seed=st.integers(0, 3),
        drain=st.sampled_from([25, 25, 25, 100]),
        is_direct=st.sampled_from([True, True, True, False]),
        shapes=st.lists(one, min_size=1, max_size=services).map(tuple),
        acts=st.lists(act, min_size=1, max_size=acts).map(tuple),
    )


# -- telling a story -----------------------------------------------------------------------------------------


class Teller:
    """Lets a story happen to a simulation. `check` is called after every act."""

    def __init__(self, story: Story, *, moving: int = 5) -> None:
        """`moving` is how many services may move at once."""
        self.story = story
        pruning = PruneSettings(enabled=True, max_services=9, max_fraction=amount("100%"))
        self.settings = ClusterSettings(max_services_moving=moving, prune=pruning)
        drain = timedelta(seconds=story.drain)
        self.sim = Simulation(seed=story.seed, timing=Timing(drain=drain), is_direct=story.is_direct)
        self.versions: dict[str, int | str] = dict.fromkeys(story.specs, 0)
        self.plus: dict[str, int] = dict.fromkeys(story.specs, 0)
        self.suspended: set[str] = set()
        self.absent: set[str] = set()
        self.needs: dict[str, tuple[str, ...]] = {}
        """What each service depends on."""
        self.groups: dict[str, str] = {}
        """Who is taken back together with whom."""
        self.older: dict[str, int | str] = dict(self.versions)

    async def tell(self) -> Simulation:
        """Deploy, let everything happen, heal, push the last version, and see that it wins."""
        await self.begin()
        await self.end()
        return self.sim

    async def begin(self) -> None:
        """Deploy, and let everything happen."""
        await self.sim.start()
        self.push()
        await self.sim.run(12)
        for act in self.story.acts:
            await self.sim.run(act.after)
            await self._do(act)

    async def end(self) -> None:
        """End all trouble; then the newest commit must win everywhere, and everything come to rest."""
        await self.push_last()
        await self.sim.run(3)
        for name in self.versions:
            await self.sim.order("resume", name)
        if self.needs or self.settings.windows:  # Who waits for others, or for the hour, is at rest meanwhile.
            await self.sim.until(self.has_arrived, within=2400, what="all at the last version")
        await self.sim.settle(within=2400)
        for name in self.versions:
            stable = self.sim.memory(name).stable
            assert stable == LAST, f"I9: {name} ends with {stable}\n{self.sim.describe()}"

    async def push_last(self) -> None:
        """End all trouble and commit the last version of everything."""
        await self._heal()
        self.versions = dict.fromkeys(self.versions, LAST)
        self.push()

    def has_arrived(self) -> bool:
        """Return whether all services run their last version."""
        return all((known := self.sim.known(name)) is not None and known.stable == LAST for name in self.versions)

    def shape(self, name: str) -> Shape:
        return self.story.shapes[NAMES.index(name)]

    def push(self) -> None:
        """Commit what every service is to be now."""
        self.sim.push(
            *(
                replace(
                    self.shape(name).spec(name, version, plus=self.plus[name], suspend=name in self.suspended),
                    depends_on=tuple(other for other in self.needs.get(name, ()) if other in self.versions),
                    group=self.groups.get(name, ""),
                )
                for name, version in self.versions.items()
                if name not in self.absent
            ),
            settings=self.settings,
        )

    async def _heal(self) -> None:
        self.sim.gates.mood = "yes"
        self.sim.gates.moods.clear()
        for mend in (self.sim.ray_mends, self.sim.gateway_mends, self.sim.git_mends):
            mend()
        self.sim.serve.write_outage = ""
        self.sim.store.full = ""
        self.sim.crash.disarm()
        self.sim.book.withdrawn.clear()
        self.sim.book.sick.clear()
        self.suspended.clear()
        self.absent.clear()
        for node in tuple(self.sim.nodes.nodes.values()):
            self.sim.nodes.add(replace(node, is_alive=True, is_draining=False))

    async def _do(self, act: Act) -> None:
        names = tuple(self.versions)
        name = names[act.service % len(names)]
        self.sim.watch.log.append(f"{self.sim.clock.now():%H:%M:%S} -- {act.what} {name} {act.number}")
        people: dict[str, Callable[[], Awaitable[Any]]] = {
            "push": lambda: self._push(name, act.number % 4),
            "revert": lambda: self._push(name, self.older[name]),
            "scale": lambda: self._scale(name, act.number % 5 - 2),
            "suspend": lambda: self._suspend(name),
            "leave": lambda: self._leave(name),
            "abort": lambda: self.sim.order("abort", name),
            "retry": lambda: self.sim.order("retry", name),
            "promote": lambda: self.sim.order("promote", name),
            "full": lambda: self.sim.order("promote", name, full=True),
            "pause": lambda: self.sim.order("resume" if act.number % 2 else "pause", name),
            "rollback": lambda: self.sim.order("rollback", name),
        }
        if act.what in people:
            await people[act.what]()
        else:
            await self._suffer(act, name)

    async def _push(self, name: str, version: int | str) -> None:
        self.older[name], self.versions[name] = self.versions[name], version
        self.push()

    async def _scale(self, name: str, plus: int) -> None:
        was, self.plus[name] = self.plus[name], plus
        shape = self.shape(name)
        scaled = (_sizes(shape.spec(name, version, plus=plus)) for version in range(len(shape.forms) + 1))
        if not all(_leaves_room(replace(shape, sizes=sizes, forms=())) for sizes in scaled):
            self.plus[name] = was
        self.push()

    async def _suspend(self, name: str) -> None:
        self.suspended ^= {name}
        self.push()

    async def _leave(self, name: str) -> None:
        """Let a service leave Git, or come back to it."""
        self.absent ^= {name}
        self.push()

    async def _suffer(self, act: Act, name: str) -> None:
        sim, node = self.sim, f"node{act.number % 3 + 1}"
        match act.what:
            case "ray":
                sim.ray_fails()
                await sim.run(2 + act.number * 3)
                sim.ray_mends()
            case "gateway":
                sim.gateway_fails()
                await sim.run(2 + act.number * 3)
                sim.gateway_mends()
            case "git":
                sim.git_fails()
                await sim.run(2 + act.number)
                sim.git_mends()
            case "writes":
                sim.serve.write_outage = "Ray refuses"
                await sim.run(2 + act.number * 2)
                sim.serve.write_outage = ""
            case "disk":
                sim.store.full = "no space left on the disk"
                await sim.run(2 + act.number * 5)
                sim.store.full = ""
            case "clock":
                sim.clock_jumps(timedelta(minutes=(act.number - 5) * 20))
            case "gate":
                sim.gates.mood = MOODS[act.number % len(MOODS)]
            case "kill":
                sim.kill()
                for _ in range(act.number * 3):
                    await sim.step(restart=False)
            case "crash":
                sim.crash.arm(act.number % 6 + 1, is_after=act.number >= 6)
            case "withdraw":
                sim.book.withdrawn.add(str(self.older[name]))
            case "sicken":
                stable = sim.memory(name).stable
                sim.book.sick |= {key.name for key, _ in sim.watch.applications(name) if key.revision == stable}
            case "remove":
                sim.somebody_removes_ours()
            case "head":
                sim.lose_head()
            case "forget":
                sim.gateway.forget()
            case "drain":
                sim.nodes.drain(node)
            case "node":
                sim.watch.excused()
                sim.nodes.kill(node)
                await sim.run(10)
                sim.nodes.add(replace(sim.nodes.nodes[node], is_alive=True))
            case "meddle":
                sim.somebody_scales(name, act.number % 5)
            case "demand":
                for key, _ in sim.watch.applications(name):
                    sim.serve.want(key.name, "Echo", act.number % 7 + 1)


def _sizes(spec: DesiredService) -> Sizes:
    found: dict[str, int | tuple[int, int] | None] = {}
    for listed in spec.revision.deployments:
        if isinstance(listed.scale, FixedScale):
            found[listed.name] = listed.scale.replicas
    return found or {"Echo": 1}
