"""What would happen if a commit were the branch's newest: the real planner, on a cluster in virtual time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from policies.layout import unplaced
from policies.membership import prune
from policies.registry import others
from policies.rollout import layout_now
from policies.sites import is_believed, next_belief
from policies.view import view_of
from reconciler.planning.changes import is_same_service
from reconciler.planning.compile import compile_effects
from reconciler.planning.live_state import live_state
from reconciler.planning.moment import NO_PRUNE_LIMITS, Surroundings
from reconciler.planning.pace import Pace
from reconciler.planning.plan import Plan, limited, make_plan
from reconciler.planning.routing import route_table
from reconciler.planning.virtual import VirtualCluster
from specs.amount import Amount
from specs.decisions import Hold
from specs.desired import Analysis, Delegated, Desired, DesiredService, Pause, PruneSettings, Step
from specs.memory import Memory, ServiceMemory
from specs.observed import Node, Observed
from specs.outward import Outward
from specs.predicted import Ending, Moment, PredictedHold, PredictedService, Prediction, Resource, Unplaced
from specs.reasons import Reason
from specs.wishes import Advice, PolicyKind, Stand, policy_id
from specs.world import World

LONGEST = timedelta(days=8)
"""Windows open once a week at the latest."""

MAX_TURNS, MIN_TURNS = 4000, 50
MAX_LOOKS = 20_000
"""Looks at one service each: some 2 ms, beside a daemon that must go on. What takes more is told as unfinished."""

QUIET = timedelta(minutes=30)
"""After so long without any change, and without a time at which one is due, nothing more happens."""

FIRST_STEP, LONGEST_STEP = timedelta(seconds=1), timedelta(seconds=30)

ORDINARY = frozenset(
    {Reason.STEADY, Reason.PROGRESSING, Reason.PAUSING, Reason.NOT_READY, Reason.BUILDING, Reason.DRAINING}
    | {Reason.SCALE_DOWN_DELAY, Reason.BAKING, Reason.ANALYSING, Reason.CAPACITY_BUDGET, Reason.SERVE_BUSY}
)
"""Reasons that every rollout has on its way: they are told as its steps, not as what holds it."""

RESOURCES = ("CPU", "GPU", "memory")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: the world as last seen, the commit, and how long things take per service."""

    world: World
    desired: Desired
    surroundings: Surroundings
    paces: Mapping[str, Pace] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    """What the paces rest on, in words."""


def predict(question: Question) -> Prediction:
    """Return how it would go. Everybody who is asked says yes, and the new revision is good."""
    world = question.world
    live = live_state(world.memory)
    asked = limited(replace(world, desired=question.desired), question.surroundings).desired or question.desired
    if not world.observed.complete:
        problem = world.observed.problem or "the cluster was not seen whole"
        return Prediction(at=world.now, live=live, is_complete=False, problem=problem)
    names = involved(world, asked)
    desired, assumptions = _hopeful(asked, names)
    known = world.memory.services
    memory = Memory(services={name: _hopeful_memory(known[name]) for name in sorted(names & known.keys())})
    surroundings = replace(question.surroundings, prune=NO_PRUNE_LIMITS)  # They have been applied, on all services.
    run = _Run(
        replace(question, surroundings=surroundings),
        replace(world, desired=_narrowed(desired, world, names), memory=memory),
    )
    run.go()
    return run.prediction(live, (*question.assumed, *assumptions))


def involved(world: World, desired: Desired) -> frozenset[str]:
    """Return the services that may move, and those that these wait for."""
    known = world.memory.services
    wanted = {service.name: service for service in desired.services}
    moving = {name for name, memory in known.items() if _is_moving(memory)}
    changed = {
        name
        for name, service in wanted.items()
        if name not in known or not is_same_service(known[name].wanted, service)
    }
    gone = _removable(world, desired)
    found = moving | changed | gone
    needs = {need for name in found & wanted.keys() for need in wanted[name].depends_on}
    groups = {wanted[name].group for name in changed & wanted.keys()} - {""}
    return frozenset(found | (needs & known.keys()) | {name for name, one in wanted.items() if one.group in groups})


def _is_moving(memory: ServiceMemory) -> bool:
    waits = memory.wanted.revision.id != memory.stable
    return memory.candidate is not None or bool(memory.outgoing) or memory.is_removed or waits


def _removable(world: World, desired: Desired) -> frozenset[str]:
    """Return the services that the prune guard lets go, by the daemon's own rules on all services.

    One that others need waits for them, and that is for the prediction to tell.
    """
    found = prune(replace(world, desired=desired))
    kept = {n for n, one in found.items() if isinstance(one, Hold) and one.reason is not Reason.STILL_NEEDED}
    return frozenset(found.keys() - kept)


def _narrowed(desired: Desired, world: World, names: frozenset[str]) -> Desired:
    """Return the commit without the services that stay as they are: each look costs per service.

    The prune guard has spoken already, on all of them; on a few the same shares would mean something else.
    """
    leaving = _removable(world, desired)
    everything = Amount(value=100, is_percent=True)
    prune_all = PruneSettings(enabled=True, max_services=max(1, len(leaving)), max_fraction=everything)
    settings = replace(desired.settings, prune=prune_all)
    services = tuple(service for service in desired.services if service.name in names)
    known = world.memory.services
    held = (known[name] for name in sorted(names & known.keys() - leaving) if desired.service(name) is None)
    kept = tuple(_hopeful_service(memory.wanted) for memory in held if not memory.is_removed)
    return replace(desired, services=(*services, *kept), settings=settings, errors=())


def _hopeful(desired: Desired, names: frozenset[str]) -> tuple[Desired, tuple[str, ...]]:
    """Return the commit with all waiting for others taken as answered well, and what that assumes."""
    services, said = [], []
    for service in desired.services:
        services.append(_hopeful_service(service))
        said += list(_assumptions(service)) if service.name in names else []
    return replace(desired, services=tuple(services)), tuple(said)


def _assumptions(service: DesiredService) -> Iterator[str]:
    rollout = service.rollout
    if any(isinstance(step, Pause) and step.duration is None for step in rollout.steps):
        yield f"{service.name}: somebody promotes it at once where its steps wait for a person"
    if service.analysis is not None or any(isinstance(step, Analysis) for step in rollout.steps):
        yield f"{service.name}: its analyses pass as soon as their time is over"
    if any(isinstance(step, Delegated) for step in rollout.steps):
        yield f"{service.name}: the policy that decides its weights wants everything at once"
    if PolicyKind.PLACEMENT in others(service):
        yield f"{service.name}: policy {service.placement.policy} goes on wishing what it wishes now"
    if rollout.gates:
        yield f"{service.name}: its gates say yes at once"


def _hopeful_memory(memory: ServiceMemory) -> ServiceMemory:
    return replace(memory, wanted=_hopeful_service(memory.wanted), comparison=None, gates=())


def _hopeful_service(service: DesiredService) -> DesiredService:
    steps = tuple(_hopeful_step(step) for step in service.rollout.steps)
    rollout = replace(service.rollout, steps=steps, gates=(), policy="steps", rollback_policy="failures")
    return replace(service, rollout=rollout, analysis=None, metrics=(), analysis_policy="sequential")


def _hopeful_step(step: Step) -> Step:
    match step:
        case Pause(duration=None):
            return Pause(duration=timedelta(0))
        case Analysis(at_least=at_least):
            return Pause(duration=at_least)
        case Delegated():
            return Pause(duration=timedelta(0))
        case _:
            return step


def _steadfast(world: World, memory: Memory, now: datetime) -> Outward:
    """Return what others say in virtual time: each placement policy what it said last, or that all is well."""
    outward, advice, policies = world.observed.outward, list[Advice](), set(world.observed.outward.policies)
    known = {name: service.wanted for name, service in memory.services.items()}
    asked = {service.name: service for service in (world.desired.services if world.desired is not None else ())}
    for service in (*known.values(), *asked.values()):
        if PolicyKind.PLACEMENT in others(service):
            policy = policy_id(PolicyKind.PLACEMENT, service.placement.policy)
            said = outward.advice_of(policy, service.name)
            wish = said.wish if said is not None and said.wish is not None else Stand()
            advice.append(Advice(policy=policy, service=service.name, revision="", at=now, wish=wish))
            policies.add(policy)
    return replace(outward, advice=tuple(advice), policies=frozenset(policies))


class _Run:
    """One prediction under way."""

    def __init__(self, question: Question, world: World) -> None:
        self._world = world
        self._surroundings = question.surroundings
        self._began = world.now
        self._cluster = VirtualCluster(world.observed, route_table(world.memory), question.paces)
        self._memory = world.memory
        wanted = world.desired.services if world.desired is not None else ()
        self._names = sorted(world.memory.services.keys() | {service.name for service in wanted})
        self._before = dict(self._cluster.live())
        self._running = {name: self._cluster.running(name) for name in self._names}
        self._peaks: dict[tuple[str, str], int] = dict(self._before)
        self._most = self._sum()
        self._used = dict(self._cluster.in_use())
        self._peak_use = dict(self._used)
        self._unplaced: dict[tuple[str, str], Unplaced] = {}
        self._moments: dict[str, list[Moment]] = {name: [] for name in self._names}
        self._holds: dict[tuple[str, Reason], list[PredictedHold]] = {}
        self._done_at: dict[str, datetime] = {}
        self._plan: Plan | None = None
        self._is_over = False

    def go(self) -> None:
        """Turn until nothing moves any more."""
        step, changed_at = FIRST_STEP, self._began
        for _ in range(max(MIN_TURNS, min(MAX_TURNS, MAX_LOOKS // max(1, len(self._names))))):
            plan = self._turn()
            if not plan.is_quiet:
                step, changed_at = FIRST_STEP, self._cluster.now
            after = self._next(plan, step)
            if after is None or after - self._began > LONGEST:
                self._is_over = after is None
                return
            if after - changed_at > QUIET and self._cluster.next_due() is None and self._until(plan) is None:
                self._is_over = True
                return
            step = min(step * 2, LONGEST_STEP) if plan.is_quiet else FIRST_STEP
            self._cluster.advance(after)

    def _turn(self) -> Plan:
        now = self._cluster.now
        world = replace(self._world, now=now, observed=self._observed(), memory=self._memory)
        plan = make_plan(world, self._surroundings)
        compiled = compile_effects(plan, self._memory, self._cluster.routed)
        self._cluster.apply(compiled.effects)
        self._memory, self._plan = compiled.memory, plan
        self._note(plan)
        return plan

    def _observed(self) -> Observed:
        return replace(self._cluster.observed(), outward=_steadfast(self._world, self._memory, self._cluster.now))

    def _next(self, plan: Plan, step: timedelta) -> datetime | None:
        """Return when to look next; None when all is done."""
        now, due, until = self._cluster.now, self._cluster.next_due(), self._until(plan)
        if plan.is_quiet and due is None and until is None and all(self._is_done(name) for name in self._names):
            return None
        if plan.is_quiet and due is None and until is not None and until - now > LONGEST_STEP:
            return until
        ahead = [now + step, *(at for at in (due, until) if at is not None and at > now)]
        return min(ahead)

    def _until(self, plan: Plan) -> datetime | None:
        times = [
            decision.until
            for group in plan.decisions.values()
            for decision in group
            if isinstance(decision, Hold) and decision.until is not None and decision.until > self._cluster.now
        ]
        world = replace(plan.world, memory=self._memory)
        placed = [name for name, memory in self._memory.services.items() if not memory.wanted.placement.is_free]
        beliefs = (next_belief(view_of(world, name)) for name in placed)
        return min([*times, *(at for at in beliefs if at is not None)], default=None)

    def _is_done(self, name: str) -> bool:
        memory = self._memory.services.get(name)
        if memory is None:
            return True
        only = {cell.key.revision for cell in memory.cells} <= {memory.stable}
        idle = memory.candidate is None and not memory.outgoing and not memory.is_removed and only
        idle = idle and memory.wanted.revision.id == memory.stable and self._cluster.is_still(name)
        return idle and self._is_in_place(name)

    def _is_in_place(self, name: str) -> bool:
        """Return whether all replicas are where they are to be; a service that may be anywhere always is."""
        memory = self._memory.services[name]
        if self._plan is None or (memory.wanted.placement.is_free and len(memory.cells) == 1):
            return True
        view = view_of(replace(self._plan.world, memory=self._memory), name)
        return (view.spec.placement.is_free or is_believed(view)) and not unplaced(view, layout_now(view))

    # -- noting ------------------------------------------------------------------------------------

    def _note(self, plan: Plan) -> None:
        after = self._cluster.now - self._began
        for event in plan.events:
            said = Moment(after=after, kind=event.kind, message=event.message)
            self._moments.setdefault(event.service, []).append(said)
        for name, group in plan.decisions.items():
            self._note_holds(name, [one for one in group if isinstance(one, Hold)])
        for name in self._names:
            if not self._is_done(name):
                self._done_at.pop(name, None)
            elif name not in self._done_at:
                self._done_at[name] = self._cluster.now
        self._note_sizes(after)

    def _note_sizes(self, after: timedelta) -> None:
        for key, count in self._cluster.live().items():
            self._peaks[key] = max(self._peaks.get(key, 0), count)
        self._most = max(self._most, self._sum())
        for name, amount in self._cluster.in_use().items():
            self._peak_use[name] = max(self._peak_use.get(name, 0.0), amount)
        counts: dict[tuple[str, str], int] = {}
        for one in self._cluster.waiting():
            key = (one.cell.partition(".")[0], one.deployment)
            counts[key] = counts.get(key, 0) + 1
            known = self._unplaced.get(key)
            if known is None or known.count < counts[key]:
                since = after if known is None else known.after
                self._unplaced[key] = Unplaced(
                    service=key[0], deployment=key[1], count=counts[key], needs=one.needs, after=since
                )

    def _note_holds(self, name: str, holds: list[Hold]) -> None:
        """Keep what holds a service beyond the ordinary, with how long it does."""
        now, after = self._cluster.now, self._cluster.now - self._began
        present = {hold.reason: hold for hold in holds if hold.reason not in ORDINARY}
        for reason, hold in present.items():
            known = self._holds.setdefault((name, reason), [])
            if not known or known[-1].lasts is not None:
                known.append(PredictedHold(reason=reason, message=hold.message, after=after))
        for (owner, reason), known in self._holds.items():
            if owner == name and reason not in present and known[-1].lasts is None:
                known[-1] = replace(known[-1], lasts=now - self._began - known[-1].after)

    def _sum(self) -> int:
        return sum(count for (service, _), count in self._cluster.live().items() if service in self._names)

    # -- telling -----------------------------------------------------------------------------------

    def prediction(self, live: str, assumptions: Iterable[str]) -> Prediction:
        """Return all that was noted."""
        services = tuple(self._service(name) for name in self._names if self._has_news(name))
        ends = [service.duration for service in services]
        return Prediction(
            at=self._began,
            live=live,
            services=services,
            resources=tuple(self._resources(self._world.observed.nodes)),
            peak=self._most,
            unplaced=tuple(one for _, one in sorted(self._unplaced.items())),
            duration=max((end for end in ends if end is not None), default=timedelta(0)) if None not in ends else None,
            assumptions=tuple(dict.fromkeys(assumptions)),
        )

    def _has_news(self, name: str) -> bool:
        is_held = any(owner == name for owner, _ in self._holds)
        return is_held or bool(self._moments.get(name)) or not self._is_done(name)

    def _service(self, name: str) -> PredictedService:
        end = self._cluster.running(name)
        fresh = {replica: place for replica, place in end.items() if replica not in self._running[name]}
        zones = {node.id: node.zone or "-" for node in self._world.observed.nodes}
        done = self._done_at.get(name)
        return PredictedService(
            name=name,
            ending=Ending.DONE if done is not None else Ending.HELD if self._is_over else Ending.UNFINISHED,
            duration=done - self._began if done is not None else None,
            moments=tuple(self._moments.get(name, ())),
            holds=tuple(hold for (owner, _), known in sorted(self._holds.items()) if owner == name for hold in known),
            peak=self._of(name, self._peaks),
            before=self._of(name, self._before),
            restarts=tuple(sorted(self._running[name].keys() - end.keys())),
            started=_counted(deployment for deployment, _ in fresh.values()),
            nodes=_counted(node for _, node in fresh.values()),
            zones=_counted(zones.get(node, "-") for _, node in fresh.values()),
        )

    def _of(self, name: str, counts: Mapping[tuple[str, str], int]) -> Mapping[str, int]:
        return {deployment: count for (service, deployment), count in sorted(counts.items()) if service == name}

    def _resources(self, nodes: tuple[Node, ...]) -> Iterator[Resource]:
        whole = total(nodes)
        for name in RESOURCES:
            if self._peak_use.get(name) or whole.get(name):
                now, peak = self._used.get(name, 0.0), self._peak_use.get(name, 0.0)
                yield Resource(name=name, now=round(now, 6), peak=round(peak, 6), total=round(whole.get(name, 0.0), 6))


def total(nodes: Iterable[Node]) -> Mapping[str, float]:
    """Return the resources of all nodes on which replicas may start."""
    found: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.resources.items() if node.is_alive and not node.is_draining else ():
            found[name] = found.get(name, 0.0) + amount
    return found


def _counted(names: Iterable[str]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for name in sorted(names):
        counts[name] = counts.get(name, 0) + 1
    return counts
