"""One service as the policies look at it: Memory, spec and observation side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from functools import cached_property
from operator import is_

from policies.budget import Budget, budget_of
from policies.once import once
from policies.recall import THIS_LOOK, THIS_WORLD, Answers, Reads, recalled
from policies.zones import kept_ready
from specs.desired import AutoScale, DesiredService, FixedScale, Revision, Scale
from specs.memory import CellMemory, ServiceMemory
from specs.observed import CellSeen, CellStatus, DeploymentSeen, Observed, ReplicaState
from specs.placement import USABLE, ZoneFailure
from specs.world import World


@dataclass(frozen=True, kw_only=True)
class Lane:
    """How a cell is routed. What it has in flight is another at each look: `ServiceView.in_flight`."""

    weight: int
    """Basis points of the service's requests, as routed now."""
    up: frozenset[str]
    """Replicas, or Serve's proxies, that pass the gateway's own checks."""


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One cell: what we remember, what Serve shows (None: not seen) and its lane (None: none yet)."""

    memory: CellMemory
    seen: CellSeen | None
    lane: Lane | None
    is_direct: bool
    is_stranded: bool = False
    """No node takes replicas where the cell may be: what has no node there cannot get one."""

    @cached_property
    def name(self) -> str:
        """Return the Serve application's name."""
        return self.memory.key.name

    @property
    def revision(self) -> str:
        """Return the revision that the cell runs."""
        return self.memory.key.revision

    @cached_property
    def line(self) -> str:
        """Return what it takes requests together with: its revision, or its fresh baseline."""
        return self.memory.line

    @property
    def is_leaving(self) -> bool:
        """Return whether Serve takes it away already."""
        return self.seen is not None and self.seen.status is CellStatus.DELETING

    @cached_property
    def deployments(self) -> frozenset[str]:
        """Return the names of its deployments: commanded and seen ones, listed in the spec or not."""
        seen = {deployment.name for deployment in self.seen.deployments} if self.seen else set()
        return frozenset(seen | set(self.memory.counts) | set(self.memory.bounds))

    @once
    def deployment(self, name: str) -> DeploymentSeen | None:
        """Return what Serve shows of one deployment, or None."""
        return self.seen.deployment(name) if self.seen else None

    @once
    def serving(self, deployment: str) -> tuple[str, ...]:
        """Return the ids of replicas that answer now; the gateway's checks count at the ingress.

        Through Serve's proxies it cannot tell replicas apart: they answer as long as some proxy does.
        """
        seen = self.deployment(deployment)
        if seen is None:
            return ()
        running = tuple(replica.id for replica in seen.replicas if replica.state is ReplicaState.RUNNING)
        if not seen.is_ingress:
            return running
        up = self.lane.up if self.lane else frozenset()
        if self.is_direct:
            return tuple(replica for replica in running if replica in up)
        return running if up else ()

    @cached_property
    def answers(self) -> bool:
        """Return whether every deployment of the cell has a replica that answers: only together are they any use."""
        names = self.deployments
        return bool(names) and all(self.serving(name) for name in names)

    @property
    def is_draining(self) -> bool:
        """Return whether the cell is on its way out: its replicas answer, and are not to be counted on."""
        return self.memory.drain_since is not None

    @once
    def commanded(self, deployment: str) -> int:
        """Return the count that Serve is working towards on our word.

        A retired cell's counts until Serve was told: what is built meanwhile starts as it was asked to. What is put
        back after somebody took it away comes with its code's own counts where the spec lists none.
        """
        if self.memory.is_retired and (self.seen is None or self.is_leaving):
            return 0
        if deployment in self.memory.counts:
            return self.memory.counts[deployment]
        seen = self.deployment(deployment)
        floor = self.memory.bounds[deployment].min_replicas if deployment in self.memory.bounds else 0
        return max(floor, seen.target if seen else self.memory.code.get(deployment, 0))

    @once
    def followed(self, deployment: str) -> int:
        """Return the count that Serve itself works towards: it may not have heard our last word yet.

        A cell that somebody else takes away is put back with the counts that it had.
        """
        seen = self.deployment(deployment)
        return self.commanded(deployment) if seen is None or self.is_leaving else seen.target

    @once
    def running(self, deployment: str) -> int:
        """Return the replicas that Serve has to take for a shrink: those that have not started it stops first."""
        seen = self.deployment(deployment)
        return seen.count(ReplicaState.RUNNING) if seen is not None else 0

    @once
    def projected(self, deployment: str) -> int:
        """Return the live replicas once all that was commanded has started and nothing has yet stopped."""
        seen = self.deployment(deployment)
        if self.is_stranded and seen is not None:
            return self.live(deployment)
        if seen is None:
            return self.commanded(deployment)
        stopping = seen.count(ReplicaState.STOPPING)
        # Serve's own replacements for what is on nodes that drain: without a node they hold nothing yet.
        migrating = sum(1 for replica in seen.replicas if replica.is_migrating)
        waiting = min(migrating, sum(1 for replica in seen.replicas if replica.is_homeless))
        return stopping + max(self.commanded(deployment), seen.target, seen.live - stopping - waiting)

    @once
    def live(self, deployment: str) -> int:
        """Return starting + running + stopping replicas; those that no node can take hold nothing."""
        seen = self.deployment(deployment)
        if seen is None:
            return 0
        return sum(1 for replica in seen.replicas if not (self.is_stranded and replica.is_homeless))


@dataclass(frozen=True, kw_only=True)
class ServiceView:
    """Everything that a policy may look at for one service."""

    around: World
    """Read by way of `world`, `observed` and `now`: they note what an answer depends on."""
    memory: ServiceMemory
    spec: DesiredService
    cells: tuple[CellView, ...]
    reads: Reads = field(default_factory=Reads, compare=False, repr=False)
    """One for a view and its copies: what an answer reads of a copy, it depends on, too."""
    answers: Answers = field(default_factory=Answers, init=False, compare=False, repr=False)

    @property
    def world(self) -> World:
        """Return everything; what reads this holds for this very world."""
        self.reads.note(THIS_WORLD)
        return self.around

    @property
    def observed(self) -> Observed:
        """Return what was observed; what reads this holds for this look."""
        self.reads.note(THIS_LOOK)
        return self.around.observed

    @property
    def now(self) -> datetime:
        """Return the time of this look; what reads this holds for this look."""
        self.reads.note(THIS_LOOK)
        return self.around.now

    @property
    def is_complete(self) -> bool:
        """Return whether all could be seen; views that differ in this hand nothing on."""
        return self.around.observed.complete

    def has_lasted(self, since: datetime, span: timedelta) -> bool:
        """Return whether `span` has passed since a time; what reads this holds until it has."""
        if self.around.now - since >= span:
            return True
        self.reads.note(since + span)
        return False

    def in_flight(self, cell: CellView) -> int | None:
        """Return how many requests a cell's lane has open; None where it has no lane."""
        gateway = self.observed.gateway
        lane = gateway.lane(cell.name) if gateway is not None else None
        return lane.in_flight if lane is not None else None

    @property
    def name(self) -> str:
        """Return the service's name."""
        return self.memory.name

    @property
    @recalled
    def wanted(self) -> Revision:
        """Return the revision to run: Git's, unless an operator rolled back from exactly that one."""
        pin = self.memory.pin
        if pin is not None and pin.against == self.spec.revision.id:
            return self.memory.revision(pin.revision) or self.spec.revision
        return self.spec.revision

    @recalled
    def cells_of(self, line: str | None) -> tuple[CellView, ...]:
        """Return the cells of a revision, or of a baseline, that are not retired; a revision's own has no baseline."""
        return tuple(cell for cell in self.cells if cell.line == line and not cell.memory.is_retired)

    @recalled
    def baselines_of(self, revision: str | None) -> tuple[str, ...]:
        """Return the lines of a revision's baselines that are not retired."""
        cells = (cell for cell in self.cells if cell.memory.is_baseline and not cell.memory.is_retired)
        return tuple(dict.fromkeys(cell.line for cell in cells if cell.revision == revision))

    @property
    @recalled
    def revisions(self) -> tuple[str, ...]:
        """Return who takes requests, in threshold order: stable, candidate, then the outgoing revisions.

        Each is followed by its baselines, which count, carry and leave for themselves.
        """
        ordered = [self.memory.stable, self.memory.candidate, *(out.revision for out in self.memory.outgoing)]
        revisions = dict.fromkeys(revision for revision in ordered if revision is not None)
        return tuple(line for revision in revisions for line in (revision, *self.baselines_of(revision)))

    @property
    @recalled
    def deployments(self) -> tuple[str, ...]:
        """Return the names of all deployments of all cells, of the wanted revision and of the candidate, sorted."""
        records = (self.wanted, self.memory.revision(self.memory.candidate or ""))
        names = {
            listed.name for record in records if record for listed in record.deployments if listed.scale is not None
        }
        return tuple(sorted(names.union(*(cell.deployments for cell in self.cells))))

    @property
    @recalled
    def needed(self) -> tuple[str, ...]:
        """Return the names of the deployments that the stable revision needs; all of them during a rollout.

        What a revision that was taken back would have added, or one that is leaving had, nobody misses.
        """
        stable = self.deployments_of(self.memory.stable)
        return tuple(sorted(stable)) if stable and self.memory.candidate is None else self.deployments

    @recalled
    def scale(self, deployment: str) -> Scale | None:
        """Return how a deployment is scaled: as the spec says, else as the newest revision that lists it and has cells.

        Whether it is autoscaled belongs to a revision: where the spec wants that changed, it holds from the
        candidate on, and not for one that runs instead. What nobody lists that is still there has its code's count,
        whatever a revision of former times, or one that never got a cell, said of it.
        """
        running = self.memory.revision(self.memory.candidate or self.memory.stable or "") or self.wanted
        own, written = running.scale(deployment), self.spec.revision.scale(deployment)
        if own is not None and type(own) is not type(written):
            return self._kept_ready(own)
        stable = self.memory.revision(self.memory.stable or "")
        live = {cell.revision for cell in self.cells}
        former = (record for record in reversed(self.memory.revisions) if record.id in live)
        records = (self.spec.revision, self.wanted, *((stable,) if stable else ()), *former)
        scales = (record.scale(deployment) for record in records)
        return self._kept_ready(next((scale for scale in scales if scale is not None), None))

    def _kept_ready(self, scale: Scale | None) -> Scale | None:
        """Return a scale with what `zoneFailure: tolerate` adds: enough for the loss of any one zone."""
        zones = self.spec.placement.zones
        if zones is None or zones.zone_failure is not ZoneFailure.TOLERATE:
            return scale
        sites = self.memory.sites
        known = len({entry.site.zone for entry in sites})
        usable = len({entry.site.zone for entry in sites if entry.state in USABLE})
        match scale:
            case FixedScale(replicas=count):
                return FixedScale(replicas=kept_ready(count, known, usable))
            case AutoScale(min_replicas=low, max_replicas=high):
                low, high = kept_ready(low, known, usable), kept_ready(high, known, usable)
                return replace(scale, min_replicas=low, max_replicas=high)
            case None:
                return None

    @recalled
    def bounds_of(self, revision: str, deployment: str) -> AutoScale | None:
        """Return the bounds of an autoscaled deployment of a revision: the spec's if it is still autoscaled there."""
        record = self.memory.revision(revision)
        scales = (self.spec.revision.scale(deployment), record.scale(deployment) if record else None)
        found = self._kept_ready(next((scale for scale in scales if isinstance(scale, AutoScale)), None))
        return found if isinstance(found, AutoScale) else None

    @recalled
    def budget(self, deployment: str) -> Budget:
        """Return target, surge and unavailable of a deployment, counts summed over revisions."""
        target, granted = self._target(deployment), self.memory.surge.get(deployment)
        return budget_of(target, self.spec.rollout, granted, has_zero=not self._is_autoscaled)

    @property
    @recalled
    def _is_autoscaled(self) -> bool:
        """Return whether some deployment is autoscaled, which excludes the scale call in the whole application."""
        is_bound = any(cell.memory.bounds for cell in self.cells if not cell.memory.is_retired)
        return is_bound or any(isinstance(self.scale(name), AutoScale) for name in self.deployments)

    def _target(self, deployment: str) -> int:
        match self.scale(deployment):
            case FixedScale(replicas=replicas):
                return replicas
            case AutoScale() as auto:
                return self._autoscaled_target(deployment, auto)
            case None:
                return self.memory.learned.get(deployment, 1)

    def _autoscaled_target(self, deployment: str, auto: AutoScale) -> int:
        """Return N of an autoscaled deployment: Serve's own targets, without the surge we added.

        During a rollout N never falls below what it was at its start: the capacity that this costs is
        given back at its end, while a fall in between could not be told from our own moves.
        """
        live = [cell for cell in self.cells if not cell.memory.is_retired]
        total = sum(cell.commanded(deployment) for cell in live)
        base = self.memory.base.get(deployment)
        if base is not None:
            surge = self.spec.rollout.max_surge.round_up(base)
            total = max(base, total - surge)
        return min(max(total, auto.min_replicas), auto.max_replicas)

    @recalled
    def live(self, deployment: str) -> int:
        """Return starting + running + stopping replicas over all cells, retired ones included."""
        return sum(cell.live(deployment) for cell in self.cells)

    @recalled
    def room(self, deployment: str) -> int:
        """Return how many more replicas the budget allows now; negative when above it."""
        return self.budget(deployment).ceiling - sum(cell.projected(deployment) for cell in self.cells)

    @recalled
    def followed(self, revision: str | None, deployment: str) -> int:
        """Return the count that Serve works towards for a revision."""
        return sum(cell.followed(deployment) for cell in self.cells_of(revision))

    @recalled
    def serving(self, revision: str | None, deployment: str) -> int:
        """Return how many replicas of a revision answer now."""
        return sum(len(cell.serving(deployment)) for cell in self.cells_of(revision))

    @recalled
    def ready(self, revision: str | None, deployment: str) -> int:
        """Return how many replicas of a revision have answered for `minReady`."""
        return sum(self.ready_in(cell, deployment) for cell in self.cells_of(revision))

    def ready_in(self, cell: CellView, deployment: str) -> int:
        """Return how many replicas of a cell have answered for `minReady`."""
        return sum(1 for replica in cell.serving(deployment) if self._is_ready(replica))

    def capacity(self, cell: CellView) -> Fraction:
        """Return the part of all requests that a cell's ready replicas can carry.

        That is its smallest ready count over its deployments relative to what all requests need,
        `ready / (N - maxUnavailable)`: what one deployment lacks, another's replicas in other cells cannot give.
        """
        return self._part(cell, self.ready_in)

    def carried(self, line: str | None, but: Iterable[str] = ()) -> Fraction:
        """Return the part of all requests that a revision's cells carry together, `but` some; none that drains counts.

        Counts that do not divide evenly over cells lose something by themselves: of five replicas and two, one cell
        has 3 and 1, the other 2 and 1, which carry nine tenths. What is lost when all that was commanded is ready is
        forgiven, else such a revision could never take over; never beyond what is ready of each deployment by now.
        """
        left_out = set(but)
        cells = [cell for cell in self.cells_of(line) if not cell.is_draining and cell.name not in left_out]
        ready = sum((self.capacity(cell) for cell in cells), Fraction(0))
        apart = sum((self._part(cell, CellView.commanded) for cell in cells), Fraction(0))
        if not apart:
            return ready
        together = self._together(cells, CellView.commanded)
        return min(ready * together / apart, self._together(cells, self.ready_in))

    def _together(self, cells: Iterable[CellView], count: Callable[[CellView, str], int]) -> Fraction:
        """Return the smallest count over deployments, each summed over cells, relative to what all requests need."""
        totals: Counter[str] = Counter()
        for cell in cells:
            totals.update({name: count(cell, name) for name in cell.deployments})
        return min((Fraction(total, self.budget(name).needed) for name, total in totals.items()), default=Fraction(0))

    def _part(self, cell: CellView, count: Callable[[CellView, str], int]) -> Fraction:
        """Return the smallest count over a cell's deployments, relative to what all requests need."""
        parts = (Fraction(count(cell, name), self.budget(name).needed) for name in cell.deployments)
        return min(parts, default=Fraction(0))

    def _is_ready(self, replica: str) -> bool:
        since = self.memory.ready_since.get(replica)
        return since is not None and self.has_lasted(since, self.spec.rollout.min_ready)

    @recalled
    def deployments_of(self, revision: str | None) -> frozenset[str]:
        """Return the names of a revision's deployments, as commanded or seen."""
        names: Iterable[str] = (name for cell in self.cells_of(revision) for name in cell.deployments)
        return frozenset(names)

    @recalled
    def is_serving(self, revision: str | None) -> bool:
        """Return whether a revision has a cell in which every deployment has a replica that answers."""
        return any(cell.answers for cell in self.cells_of(revision))

    def has_requests(self, line: str) -> bool:
        """Return whether a revision gets any request, as the gateway routes now or was told last."""
        told = (self.memory.weights.get(cell.name, 0) for cell in self.cells_of(line))
        return self.weights.get(line, 0) > 0 or any(weight > 0 for weight in told)

    @recalled
    def routed(self, revision: str | None) -> int:
        """Return the basis points that the gateway shows for a revision; 0 where it shows none."""
        return sum(cell.lane.weight for cell in self.cells_of(revision) if cell.lane is not None)

    @property
    @recalled
    def weights(self) -> Mapping[str, int]:
        """Return the basis points per revision as the gateway routes them now.

        A gateway that lost its lanes is about to get them back as they were: until then those count. While it
        has some of them, what it was told of the others did not reach it: they have no share yet.
        """
        totals = dict.fromkeys(self.revisions, 0)
        told = {} if any(cell.lane for cell in self.cells) else self.memory.weights
        for cell in self.cells:
            if cell.line in totals and not cell.memory.is_retired:
                totals[cell.line] += cell.lane.weight if cell.lane else told.get(cell.name, 0)
        return totals


def view_of(world: World, name: str) -> ServiceView:
    """Return the view of a service that Memory knows."""
    memory, recall = world.memory.services[name], world.recall
    last: ServiceView | None = recall.get(name) if recall is not None else None
    if last is not None and last.around is world and last.memory is memory:
        return last
    view = ServiceView(around=world, memory=memory, spec=memory.wanted, cells=_cells(world, memory, last))
    if recall is not None:
        recall[name] = view if last is None else _with_answers(view, last)
    return view


def _with_answers(view: ServiceView, last: ServiceView) -> ServiceView:
    """Return a view with those answers of the last one that hold for it, too."""
    then, now = last.around, view.around
    is_same = (
        view.memory is last.memory and view.cells is last.cells and now.observed.complete == then.observed.complete
    )
    if not is_same or now.now < then.now:
        return view
    is_same_look = now.observed is then.observed and now.now == then.now
    object.__setattr__(view, "answers", last.answers.handed_on(THIS_WORLD if is_same_look else now.now))
    return view


def _cells(world: World, memory: ServiceMemory, last: ServiceView | None) -> tuple[CellView, ...]:
    """Return a service's cells: those of the last view where nothing of them is different."""
    before = last.cells if last is not None else ()
    if last is not None and last.memory is memory and last.around.observed is world.observed:
        return before
    known = {cell.name: cell for cell in before}
    cells = tuple(_cell(world.observed, cell, known.get(cell.key.name)) for cell in memory.cells)
    is_same = len(cells) == len(before) and all(map(is_, cells, before))
    return before if is_same else cells


def _cell(observed: Observed, memory: CellMemory, last: CellView | None) -> CellView:
    gateway, name = observed.gateway, memory.key.name
    lane = gateway.lane(name) if gateway is not None else None
    cell = CellView(
        memory=memory,
        seen=observed.cell(name),
        lane=Lane(weight=lane.weight, up=lane.up) if lane is not None else None,
        is_direct=gateway is None or gateway.is_direct,
        is_stranded=not observed.takes_replicas(memory.key.site),
    )
    return last if last == cell else cell
