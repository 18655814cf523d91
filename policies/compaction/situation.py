"""From what is seen to what is asked: which nodes may go, which replicas may move, and why the others may not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from policies.compaction.problem import Crowd, Machine, Problem, fits, in_units
from policies.compaction.starts import Starts, at_large, name_of, noted
from policies.membership import moving
from specs.compaction import CompactionMemory, CompactionSettings, Holding
from specs.memory import ServiceMemory
from specs.observed import CellSeen, DeploymentSeen, Node, Observed, ReplicaState
from specs.selectors import matches
from specs.world import World

SICK = ("UNHEALTHY", "DEPLOY_FAILED")


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What a service's replicas looked like, and since when."""

    size: str
    sick: str
    """Which deployments are sick."""
    since: datetime
    """When one of the two last changed."""
    sized_at: datetime
    """When the size did: a service that comes and goes between well and sick has not changed that."""
    starts: Mapping[str, Starts] = field(default_factory=dict)
    """How replicas start, per deployment that is not whole."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One look, made ready for the planner."""

    problem: Problem
    replicas: Mapping[str, int]
    """Live replicas per node, ours and others'."""
    unsettled_until: datetime | None = None
    """When the next service counts as settled, if some service is waited for."""
    reserves: tuple[str, ...] = ()
    swinging: tuple[str, ...] = ()
    """Autoscaled services that have just changed their size: what they gave up they may want back."""
    first: tuple[str, ...] = ()
    """Nodes that somebody wishes to be emptied before others."""
    own_prices: Mapping[str, float] = field(default_factory=dict)
    """What nodes cost by the ClusterPolicy, where somebody wishes them to count for something else."""

    def saved_by(self, freed: Iterable[str]) -> float:
        """Return what nodes cost together, by the ClusterPolicy's prices, whatever a wish makes of them."""
        return sum(self.own_prices.get(node, self.problem.machine[node].price) for node in freed)


def settle(world: World, before: Mapping[str, Settled]) -> Mapping[str, Settled]:
    """Return since when each service has been as large, and as well, as it is. What cannot be seen goes on as it was.

    Replicas that moved to another node have not made a service less settled.
    """
    if not world.observed.complete:
        return before
    services = sorted(world.memory.services.items())
    return {name: _settled(world, service, before.get(name)) for name, service in services}


def _settled(world: World, service: ServiceMemory, known: Settled | None) -> Settled:
    found = [
        (name_of(cell, seen), seen)
        for memory in service.cells
        if (cell := world.observed.cell(memory.key.name)) is not None
        for seen in cell.deployments
    ]
    size = " ".join(sorted(f"{name}={seen.target}" for name, seen in found))
    sick = " ".join(sorted(name for name, seen in found if seen.status in SICK))
    before = known.starts if known is not None else {}
    starts = {name: noted(before.get(name, Starts()), seen) for name, seen in found}
    is_as_large = known is not None and known.size == size
    is_as_well = known is not None and known.sick == sick
    return Settled(
        size=size,
        sick=sick,
        since=known.since if known is not None and is_as_large and is_as_well else world.now,
        sized_at=known.sized_at if known is not None and is_as_large else world.now,
        starts=starts,
    )


def situation_of(
    world: World,
    settings: CompactionSettings,
    memory: CompactionMemory,
    settled: Mapping[str, Settled],
    holdings: Iterable[Holding],
) -> Situation:
    """Return the question that this moment asks. Everything that is not known to be movable keeps its node."""
    draft = _Draft(world=world, settings=settings, memory=memory, settled=settled)
    draft.take_holdings(holdings)
    for cell in world.observed.cells:
        draft.take_cell(cell)
    crowds = _with_reserves(draft.crowds, draft.surging)
    machines = tuple(draft.machine(node) for node in draft.nodes.values())
    problem = Problem(machines=machines, crowds=tuple(crowds))
    return Situation(
        problem=problem,
        replicas=draft.replicas,
        unsettled_until=min(draft.waits, default=None),
        swinging=tuple(sorted(draft.swinging)),
        reserves=tuple(f"{crowd.reserve} x {crowd.name}" for crowd in crowds if crowd.reserve),
    )


@dataclass(kw_only=True)
class _Draft:
    """A situation in the making."""

    world: World
    settings: CompactionSettings
    memory: CompactionMemory
    settled: Mapping[str, Settled]
    nodes: dict[str, Node] = field(init=False)
    stays: dict[str, str] = field(default_factory=dict)
    taken: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    replicas: Counter[str] = field(default_factory=Counter)
    crowds: list[Crowd] = field(default_factory=list)
    surging: set[str] = field(default_factory=set)
    waits: list[datetime] = field(default_factory=list)
    swinging: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Take the nodes that are there, those first that cannot go whatever is on them."""
        self.nodes = {node.id: node for node in self.world.observed.nodes if node.is_alive}
        self._owners = {
            cell.key.name: service for service in self.world.memory.services.values() for cell in service.cells
        }
        self._moving = moving(self.world.memory.services)
        self._closed = self.memory.closed
        drains = {drain.node for drain in self.memory.drains}
        given_up = {entry.node: entry for entry in self.memory.given_up}
        emptied = {entry.node for entry in self.memory.emptied}
        for node in self.nodes.values():
            if node.is_head:
                self._stay(node.id, "it is the head")
            elif node.id in emptied:
                self._stay(node.id, "it is empty, and Ray is to end on it")
            elif node.id in drains or node.is_draining:
                self._stay(node.id, "it is being drained")
            elif node.id in given_up:
                entry = given_up[node.id]
                self._stay(node.id, f"given up: {entry.why}; not tried again before {entry.until:%H:%M:%S} UTC")

    def _stay(self, node: str, why: str) -> None:
        self.stays.setdefault(node, why)

    def take_holdings(self, holdings: Iterable[Holding]) -> None:
        """What is not Heliostat's stays where it is, and so does its node."""
        for holding in holdings:
            if holding.node in self.nodes:
                self._stay(holding.node, f"it holds {holding.what}, which is not Heliostat's")
                self.taken[holding.node].update(in_units(holding.resources))

    def take_cell(self, cell: CellSeen) -> None:
        """Replicas that may move become crowds; the others keep their nodes."""
        service = self._owners.get(cell.name)
        for seen in cell.deployments:
            places = self._places(seen, *ReplicaState)
            self.replicas.update(places)
            if service is None:
                self._hold(seen, places, f"a replica of {cell.name}, which is not Heliostat's, is on it")
                continue
            if seen.is_autoscaled and not self._is_over(self._sized_at(service)):
                self.swinging.add(service.name)
            fixed = self._why(service)
            reason = fixed or self._why_unsettled(service) or self._why_deployment(cell, seen)
            if not reason:
                self._add(cell, seen, places, service)
            elif fixed or not self._starts_in_vain(service, cell, seen):
                self._hold(seen, places, reason)
            else:
                self._let_wander(cell, seen, reason)

    def _places(self, seen: DeploymentSeen, *states: ReplicaState) -> Counter[str]:
        """Return how many replicas in these states are on each node."""
        return Counter(
            replica.node for replica in seen.replicas if replica.state in states and replica.node in self.nodes
        )

    def _hold(self, seen: DeploymentSeen, places: Mapping[str, int], reason: str) -> None:
        for place, count in places.items():
            self._stay(place, reason)
            self.taken[place].update({name: need * count for name, need in in_units(seen.needs).items()})

    def _add(self, cell: CellSeen, seen: DeploymentSeen, places: Mapping[str, int], service: ServiceMemory) -> None:
        if not places:
            return
        if service.wanted.rollout.max_surge.round_up(max(1, seen.target)) > 0:
            self.surging.add(name_of(cell, seen))
        # What is on a node that drains is about to come somewhere else.
        leaving = sum(count for place, count in places.items() if self._drains(place))
        self.crowds.append(_crowd(cell, seen, places, leaving))

    def _let_wander(self, cell: CellSeen, seen: DeploymentSeen, reason: str) -> None:
        """Replicas that start in vain keep no node: Serve tries the next one elsewhere, and has room for that.

        Those that run keep theirs, for nothing would take their place. What stops is gone in seconds: counted as well,
        each of them would be there several times over.
        """
        running, starting = (self._places(seen, one) for one in (ReplicaState.RUNNING, ReplicaState.STARTING))
        self._hold(seen, running, reason)
        placed = sum(count for place, count in starting.items() if not self._drains(place))
        lacking = seen.target - seen.count(ReplicaState.RUNNING) - placed
        self.crowds.append(_crowd(cell, seen, starting, max(0, lacking)))

    def _drains(self, node: str) -> bool:
        """Return whether replicas leave a node and none come to it."""
        is_told = node in self._closed or self.memory.drain(node) is not None
        return is_told or self.nodes[node].is_draining

    def _why(self, service: ServiceMemory) -> str:
        """Return why nothing of a service moves now; "" when it may."""
        if not service.wanted.may_be_moved:
            return f"{service.name} has compaction.allow: false"
        if service.wanted.suspend:
            return f"{service.name} is suspended"
        if service.is_removed:
            return f"{service.name} is being removed"
        if service.name in self._moving or service.candidate or service.outgoing:
            return f"a rollout of {service.name} is under way"
        return ""

    def _why_unsettled(self, service: ServiceMemory) -> str:
        known = self.settled.get(service.name)
        if self._is_over(known.since if known is not None else None):
            return ""
        return f"replicas of {service.name} changed less than {self.settings.settle} ago"

    def _sized_at(self, service: ServiceMemory) -> datetime | None:
        known = self.settled.get(service.name)
        return known.sized_at if known is not None else None

    def _is_over(self, since: datetime | None) -> bool:
        """Return whether a change is long enough ago; one at an unknown moment is not."""
        if since is None:
            return False
        until = since + self.settings.settle
        if until > self.world.now:
            self.waits.append(until)
        return until <= self.world.now

    def _starts_in_vain(self, service: ServiceMemory, cell: CellSeen, seen: DeploymentSeen) -> bool:
        known = self.settled.get(service.name)
        # One that is on several nodes cannot be said to be on none.
        return known is not None and not seen.is_scattered and bool(at_large(known.starts, name_of(cell, seen), seen))

    def _why_deployment(self, cell: CellSeen, seen: DeploymentSeen) -> str:
        running = seen.count(ReplicaState.RUNNING)
        if running != seen.target or running != seen.live or seen.status not in ("HEALTHY", "RUNNING"):
            return f"{seen.name} of {cell.name} is not well: {running} of {seen.target} replicas run, {seen.status}"
        if seen.is_scattered:
            return f"replicas of {seen.name} of {cell.name} may be on several nodes each"
        return ""

    def machine(self, node: Node) -> Machine:
        """Return what the planner sees of a node."""
        room = Counter(in_units(node.resources))
        room.subtract(self.taken[node.id])
        return Machine(
            id=node.id,
            room={name: max(0, amount) for name, amount in room.items()},
            price=price_of(node, self.settings),
            labels=dict(node.labels),
            kept=self.stays.get(node.id, ""),
            takes=not self._drains(node.id) and not _is_bare_head(node),
        )


def _crowd(cell: CellSeen, seen: DeploymentSeen, places: Mapping[str, int], reserve: int) -> Crowd:
    return Crowd(
        name=name_of(cell, seen),
        needs=in_units(seen.needs),
        selector=dict(sorted(seen.selector.items())),
        per_node=seen.per_node,
        places=dict(sorted(places.items())),
        reserve=reserve,
    )


def _is_bare_head(node: Node) -> bool:
    """A head is mostly there for itself: what has CPUs to give takes replicas all the same."""
    return node.is_head and not node.resources.get("CPU")


def price_of(node: Node, settings: CompactionSettings) -> float:
    """Return a node's price: its label, else the first entry of the table that matches, else 1."""
    written = node.labels.get(settings.price_label, "") if settings.price_label else ""
    try:
        price = float(written)
    except ValueError:
        price = 0.0
    if 0 < price < float("inf"):
        return price
    return next((entry.price for entry in settings.prices if matches(node.labels, entry.match)), 1.0)


def _with_reserves(crowds: list[Crowd], surging: set[str]) -> list[Crowd]:
    """Keep room for one more replica of each size that rollouts grow by: packed full, none could ever start.

    Room for a larger replica on fewer nodes is room for a smaller one on more.
    """
    kept: list[Crowd] = []
    for crowd in sorted((one for one in crowds if one.name in surging), key=_bulk, reverse=True):
        if not any(_covers(other, crowd) for other in kept):
            kept.append(crowd)
    names = {crowd.name for crowd in kept}
    return [replace(crowd, reserve=crowd.reserve + 1) if crowd.name in names else crowd for crowd in crowds]


def _bulk(crowd: Crowd) -> tuple[int, int, int, str]:
    return (crowd.needs.get("GPU", 0), crowd.needs.get("CPU", 0), len(crowd.selector), crowd.name)


def _covers(other: Crowd, crowd: Crowd) -> bool:
    return fits(crowd.needs, other.needs) and crowd.selector.items() <= other.selector.items()


def expected_use(observed: Observed, node: str, settled: Mapping[str, Settled]) -> Mapping[str, float]:
    """Return what Serve's replicas take of a node: whatever else is in use there is somebody else's.

    Replicas that start in vain are on other nodes every few seconds: each of them may have come here by now.
    """
    starts = {name: one for service in settled.values() for name, one in service.starts.items()}
    used: dict[str, float] = {}
    for cell in observed.cells:
        for seen in cell.deployments:
            wandering = at_large(starts, name_of(cell, seen), seen)
            here = (
                replica
                for replica in seen.replicas
                if replica.node == node and (not wandering or replica.state is ReplicaState.RUNNING)
            )
            count = wandering + sum(1 for _ in here)
            for name, need in seen.needs.items() if count else ():
                used[name] = used.get(name, 0.0) + need * count
    return used


def placed_by_serve(problem: Problem, node: str) -> bool:
    """Return whether what is on a node finds room wherever Serve puts it: it does not follow the plan.

    Serve spreads, and in an order of its own. Both the small first and the large first must come out.
    """
    crowds = [crowd for crowd in problem.crowds if crowd.places.get(node)]
    small_first = sorted(crowds, key=_bulk)
    return all(_spread(problem, node, order) for order in (small_first, small_first[::-1]))


def _spread(problem: Problem, node: str, crowds: Iterable[Crowd]) -> bool:
    free = {place: Counter(left) for place, left in problem.free.items() if place != node}
    there = {crowd.name: Counter(crowd.places) for crowd in problem.crowds}
    for crowd in crowds:
        for _ in range(crowd.places[node]):
            place = _emptiest(problem, crowd, free, there[crowd.name])
            if place is None:
                return False
            free[place].subtract(crowd.needs)
            there[crowd.name][place] += 1
    return True


def _emptiest(problem: Problem, crowd: Crowd, free: Mapping[str, Counter[str]], there: Mapping[str, int]) -> str | None:
    return max(_open(problem, crowd, free, there), key=lambda place: (free[place]["CPU"], place), default=None)


def _open(problem: Problem, crowd: Crowd, free: Mapping[str, Counter[str]], there: Mapping[str, int]) -> Iterator[str]:
    for place, left in free.items():
        machine = problem.machine[place]
        full = crowd.per_node is not None and there.get(place, 0) >= crowd.per_node
        if machine.takes and not full and matches(machine.labels, crowd.selector) and fits(crowd.needs, left):
            yield place
