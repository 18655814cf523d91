"""What an observation adds to Memory: facts that the next look could not tell any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from policies.bake import next_baking
from policies.drift import is_disputed
from policies.health import is_pausing
from policies.metrics import next_tallies
from policies.moving import base_of_move, is_on_its_way
from policies.recall import recalled
from policies.resources import shortages
from policies.sites import next_sites
from policies.view import CellView, ServiceView, view_of
from policies.window import next_comparison
from reconciler.planning.drift import digest
from specs.memory import CellMemory, Memory, Rollout, ServiceMemory
from specs.observed import CellSeen, CellStatus, DeploymentSeen, ReplicaState
from specs.placement import Placing
from specs.updated import updated
from specs.world import World

STAYED = timedelta(minutes=5)
"""A cell that was put back and is still there after this long is not fought over."""


def perceive(world: World) -> World:
    """Return the world with its Memory brought up to what was observed."""
    services = {name: _perceive_service(world, name) for name in sorted(world.memory.services)}
    return with_services(world, services)


def with_services(world: World, services: Mapping[str, ServiceMemory]) -> World:
    """Return the world with another Memory of its services: itself where each of them is the same."""
    known = world.memory.services
    if len(known) == len(services) and all(known.get(name) is service for name, service in services.items()):
        return world
    return replace(world, memory=Memory(services=dict(services)))


def _perceive_service(world: World, name: str) -> ServiceMemory:
    view = _on_this_clock(view_of(world, name))
    if not world.observed.complete:
        rollout = view.memory.rollout
        return updated(view.memory, rollout=updated(rollout, is_untimed=True) if rollout is not None else None)
    memory = _with_cells(view)
    seen = view if memory is view.memory else replace(view, memory=memory)
    return updated(memory, rollout=_moved_on(seen), comparison=next_comparison(seen), baking=next_baking(seen))


@recalled
def _with_cells(view: ServiceView) -> ServiceMemory:
    """Return Memory with what its cells show, and what follows from that alone."""
    memory = view.memory
    cells = tuple(
        _present(view, _perceive_cell(cell, is_judged=_is_judged(cell, memory)), cell.seen) for cell in view.cells
    )
    return updated(
        memory,
        cells=cells,
        ready_since=_ready_since(view),
        learned=_learned(view, cells),
        base=_base(view),
        sites=next_sites(view),
        surge=memory.surge if memory.is_moving else {},
        peak=max(memory.peak, sum(view.live(name) for name in view.deployments)) if memory.is_moving else memory.peak,
    )


def _on_this_clock(view: ServiceView) -> ServiceView:
    """Return the view with nothing remembered from the future.

    A machine that was started with an older time would otherwise wait for that future before it went on.
    """
    latest = _latest(view)
    if latest is None or latest <= view.now:
        return view
    now, rollout = view.now, view.memory.rollout
    if rollout is not None:
        reached = min(rollout.reached_at, now) if rollout.reached_at else None
        rollout = replace(rollout, reached_at=reached, progress_at=min(rollout.progress_at, now))
    cells = tuple(_cell_on_this_clock(cell, now) for cell in view.cells)
    memory = replace(
        view.memory,
        rollout=rollout,
        sites=tuple(replace(entry, since=min(entry.since, now)) for entry in view.memory.sites),
        outgoing=tuple(replace(out, since=min(out.since, now)) for out in view.memory.outgoing),
        cells=tuple(cell.memory for cell in cells),
        placing=_placing_on_this_clock(view.memory.placing, now),
    )
    return replace(view, memory=memory, cells=cells)


@recalled
def _latest(view: ServiceView) -> datetime | None:
    """Return the latest of the times that may not lie ahead."""
    memory, rollout = view.memory, view.memory.rollout
    times = [*(entry.since for entry in memory.sites), *(out.since for out in memory.outgoing)]
    times += _times_of_wish(memory.placing) if memory.placing is not None else []
    times += [rollout.progress_at, rollout.reached_at or rollout.progress_at] if rollout is not None else []
    return max((*times, *(at for cell in memory.cells for at in _times_of(cell))), default=None)


def _times_of_wish(placing: Placing) -> Iterable[datetime]:
    return (at for at in (placing.since, placing.silent_since) if at is not None)


def _times_of(cell: CellMemory) -> Iterable[datetime]:
    return (at for at in (cell.building_since, cell.drain_since, cell.restored_at) if at is not None)


def _cell_on_this_clock(cell: CellView, now: datetime) -> CellView:
    memory = cell.memory
    if all(at <= now for at in _times_of(memory)):
        return cell
    memory = replace(
        memory,
        building_since=min(memory.building_since, now),
        drain_since=min(memory.drain_since, now) if memory.drain_since else None,
        restored_at=min(memory.restored_at, now) if memory.restored_at else None,
    )
    return replace(cell, memory=memory)


def _placing_on_this_clock(placing: Placing | None, now: datetime) -> Placing | None:
    if placing is None:
        return None
    silent = min(placing.silent_since, now) if placing.silent_since else None
    return replace(placing, since=min(placing.since, now), silent_since=silent)


def _is_judged(cell: CellView, memory: ServiceMemory) -> bool:
    return cell.revision == memory.candidate or cell.memory.is_baseline


def _perceive_cell(cell: CellView, *, is_judged: bool) -> CellMemory:
    """Note what a cell shows. Only new replicas are counted: a stable revision's come and go for months."""
    if cell.seen is None or cell.seen.status is CellStatus.DELETING:
        # Whoever took it away took its replicas along: none of them crashed.
        return updated(cell.memory, seen={}, shrunk=0)
    if not cell.seen.deployments:
        return cell.memory
    memory, deployments = cell.memory, cell.seen.deployments
    seen = dict(memory.seen) if is_judged else {}
    for deployment in deployments if is_judged else ():
        seen |= {
            replica.id: replica.node or seen.get(replica.id, "")
            for replica in deployment.replicas
            if replica.id in seen or replica.state is not ReplicaState.STOPPING
        }
    fell = sum(max(0, memory.targets.get(found.name, 0) - found.target) for found in deployments)
    return updated(
        memory,
        seen=seen,
        targets={found.name: found.target for found in deployments},
        code=memory.code or _code_counts(memory, deployments),
        shrunk=memory.shrunk + fell if is_judged else 0,
        was_ready=memory.was_ready or all(cell.serving(found.name) for found in deployments),
    )


def _present(view: ServiceView, memory: CellMemory, seen: CellSeen | None) -> CellMemory:
    """Note that Serve has a cell. One that stayed for a while is put back at once when it goes again."""
    if seen is None or seen.status is CellStatus.DELETING:
        return memory
    stayed = memory.restored_at is not None and view.has_lasted(memory.restored_at, STAYED)
    return updated(memory, written=digest(seen), was_seen=True, restores=0 if stayed else memory.restores)


def _code_counts(memory: CellMemory, deployments: tuple[DeploymentSeen, ...]) -> Mapping[str, int]:
    """Return the counts of deployments that nobody commanded: at first sight they are the code's own."""
    listed = memory.counts.keys() | memory.bounds.keys()
    return {found.name: found.target for found in deployments if found.name not in listed}


def _ready_since(view: ServiceView) -> Mapping[str, datetime]:
    answering = [
        replica
        for cell in view.cells
        for deployment in sorted(cell.deployments)
        for replica in cell.serving(deployment)
    ]
    # A clock that was set back must not make what answers unready for as long as it was ahead.
    return {replica: _passed(view, view.memory.ready_since.get(replica)) for replica in sorted(answering)}


def _passed(view: ServiceView, at: datetime | None) -> datetime:
    """Return a time that has passed; else now."""
    return at if at is not None and view.has_lasted(at, timedelta(0)) else view.now


def _learned(view: ServiceView, cells: tuple[CellMemory, ...]) -> Mapping[str, int]:
    """Learn the counts of unlisted deployments from the first cell that is seen with them."""
    learned = dict(view.memory.learned)
    for cell in cells:
        learned = {**cell.code, **learned}
    return learned


def _base(view: ServiceView) -> Mapping[str, int]:
    """Return the autoscaling base of a rollout, or of a move to other places, until it is over.

    A rollout's is over once the revision that took over has grown to it, a move's once nothing is left behind.
    """
    memory = view.memory
    others = {weight for line, weight in view.weights.items() if line != memory.stable}
    if memory.candidate is not None or is_on_its_way(view) or any(others):
        return base_of_move(view)
    regained = all(
        sum(cell.commanded(name) for cell in view.cells_of(memory.stable)) >= min(count, view.budget(name).target)
        for name, count in memory.base.items()
    )
    return {} if regained and memory.base else memory.base


@recalled
def _moved_on(view: ServiceView) -> Rollout | None:
    """Return the rollout with what it has come to."""
    rollout = _progressed(view)
    return updated(rollout, tallies=next_tallies(view, rollout)) if rollout is not None else None


def _progressed(view: ServiceView) -> Rollout | None:
    rollout = view.memory.rollout
    if rollout is None:
        return None
    mark, is_untimed = _mark(view), _is_untimed(view)
    if mark != rollout.progress or (rollout.is_untimed and not is_untimed):
        return replace(rollout, progress=mark, progress_at=view.now, is_untimed=is_untimed)
    return updated(rollout, is_untimed=is_untimed)


def _is_untimed(view: ServiceView) -> bool:
    """Return whether no progress is nobody's fault: a pause, full nodes, others' changes, what Serve was not given.

    It is noted when that begins and when it ends. A deadline moved on meanwhile would be a write for each move, and a
    Memory from which everything about the service is worked out anew.
    """
    candidate = view.memory.candidate
    cells = view.cells_of(candidate)
    if is_pausing(view) or not any(cell.seen for cell in cells):
        return True
    if any(cell.memory.drifts and is_disputed(cell.memory, view.now) for cell in cells):
        return True
    return bool(shortages(view, candidate))


def _mark(view: ServiceView) -> str:
    """Return a text that changes whenever the candidate got further: a step, a weight, a ready replica."""
    candidate = view.memory.candidate
    rollout = view.memory.rollout
    names = sorted(view.deployments_of(candidate))
    ready = ",".join(f"{name}={view.ready(candidate, name)}" for name in names)
    asked = ",".join(f"{name}={sum(c.commanded(name) for c in view.cells_of(candidate))}" for name in names)
    return f"{rollout.step if rollout else 0}|{view.weights.get(candidate or '', 0)}|{ready}|{asked}"
