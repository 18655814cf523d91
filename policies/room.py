"""Rollouts that wait for the same room on full nodes: who may hold a part of it, so that they cannot wait for ever.

Two rollouts that each hold room for one deployment and wait for room for another would wait for each other. So of
those that wait one may hold what it has: ways back first, then the eldest that could move on if all others gave way.
Giving way is to let go what one's requests do not need, and a candidate without any requests goes whole; it is created
again when its turn comes. The one that holds gets all the room there is, moves on, and is not among the waiting any
more: each turn ends with a rollout that has moved.

There is always one that could. A rollout gets a further share of the requests only while it holds one replica more of
each deployment than its service is to have, and keeps no more than one. So whoever got a share last could get the next
with what it let go since and has still, and nobody else can have taken that for good, for the same holds for them.
What does take room for good are first deployments, larger counts, and nodes that are lost. A first deployment is not
begun at the cost of a rollout that waits. For all else there is one way more: the youngest rollout whose old revision
still carries all requests by itself gives them back, and begins again later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from policies.once import once
from policies.places import Need, Places
from policies.recall import recalled
from policies.resources import Shortage, shortages
from policies.retirement import is_weightless
from policies.rollout import keep
from policies.standing import is_frozen, waits_for_others
from policies.traffic import ready_share, routed_outgoing
from policies.view import CellView, ServiceView, view_of
from specs.decisions import Decision, GiveWay, SetCapacity, StartRevision
from specs.memory import Rollout, ServiceMemory
from specs.observed import DeploymentSeen, ReplicaState
from specs.routes import FULL, ROUNDING
from specs.world import World

TURN = timedelta(minutes=30)
"""What is arithmetic to us is Serve's to do. Whom it finds no place for all the same loses its turn after this."""


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """Who may hold a part of the room, and who gives way to that, each with or without its requests."""

    holder: str
    asked: Mapping[str, bool]


def gives_way_to(view: ServiceView) -> GiveWay | None:
    """Return to whom a rollout, or a way back, has to give way, or None."""
    rollout = view.memory.rollout
    if _is_still(view) or (rollout is None and not _is_returning(view)):
        return None
    if rollout is not None and _follows(view):
        return GiveWay(service=view.name, to=rollout.yields_to)
    if not _waits(view) and not (view.observed.is_full and (_is_returning(view) or _is_asked(view))):
        return None
    turn = _turn(view.world)
    if turn is None or view.name not in turn.asked:
        return None
    return GiveWay(service=view.name, to=turn.holder, goes_back=turn.asked[view.name])


@once
def _turn(world: World) -> _Turn | None:
    """Return whose turn it is; None while nobody waits, or nobody would get the room that he waits for."""
    waiting = sorted(_waiting(world), key=_rank)
    turn = int(world.now.timestamp() // TURN.total_seconds()) % max(1, len(waiting))
    in_turn = [*waiting[turn:], *waiting[:turn]] if waiting and _is_stuck(waiting[0]) else waiting
    for is_locked in (False, True):
        for holder in in_turn:
            asked = _givers(holder, waiting, is_urgent=is_locked or _leads_back(holder))
            if asked is not None and not _follows(holder):
                return _Turn(holder=holder.name, asked=asked)
    return None


def locked_with(view: ServiceView) -> tuple[str, ...]:
    """Return who else waits when nobody would get the room that he waits for, whoever gave way."""
    if not _waits(view) or _turn(view.world) is not None:
        return ()
    return tuple(other.name for other in _waiting(view.world) if other.name != view.name)


# -- who waits ---------------------------------------------------------------------------------------------


def _is_still(view: ServiceView) -> bool:
    return is_frozen(view) or view.spec.suspend


@recalled
def _waits(view: ServiceView) -> bool:
    """Return whether a service waits for room, by Serve's own word, or gave way to somebody and waits for its turn."""
    rollout = view.memory.rollout
    if _is_still(view):
        return False
    if _lacks_room_to_return(view):
        return True
    if view.memory.candidate is None or rollout is None:
        return False
    if waits_for_others(view):
        return False
    return bool(rollout.yields_to) or any(
        not _stops_first(view, short) for short in shortages(view, view.memory.candidate)
    )


@recalled
def _lacks_room_to_return(view: ServiceView) -> bool:
    """Return whether the stable revision waits for room to take back requests that are on their way to it."""
    lacking = shortages(view, view.memory.stable) if routed_outgoing(view) else ()
    return any(not _stops_first(view, short) for short in lacking)


def _stops_first(view: ServiceView, short: Shortage) -> bool:
    """Return whether old replicas make room by themselves: such a rollout waits for nobody else."""
    return view.budget(short.deployment).unavailable > 0


@recalled
def _is_returning(view: ServiceView) -> bool:
    """Return whether requests are on their way back to a stable revision that answers."""
    is_alone = not view.cells_of(view.memory.candidate)
    return bool(routed_outgoing(view)) and is_alone and view.is_serving(view.memory.stable)


def _held_back(view: ServiceView) -> ServiceView | None:
    """Return a way back as if it were still a rollout that may be kept where it is; None when there is none."""
    memory = view.memory
    if not _is_returning(view):
        return None
    last = max(memory.outgoing, key=lambda out: view.weights.get(out.revision, 0))
    rollout = Rollout(started_at=last.since, progress_at=last.since, is_fast=True, yields_to="-")
    others = tuple(out for out in memory.outgoing if out.revision != last.revision)
    return replace(view, memory=replace(memory, candidate=last.revision, rollout=rollout, outgoing=others))


def is_way_back(view: ServiceView) -> bool:
    """Return whether a rollout leads to a revision that was good before, by itself or because a person said so."""
    rollout, pin = view.memory.rollout, view.memory.pin
    return rollout is not None and (rollout.is_fast or (pin is not None and pin.revision == view.memory.candidate))


def _leads_back(view: ServiceView) -> bool:
    return _is_returning(view) or is_way_back(view)


@once
def _waiting(world: World) -> tuple[ServiceView, ...]:
    """Return who waits. A way back that stands aside waits, too, for as long as anybody says that nodes are full."""
    services = world.memory.services.items()
    moving = [view_of(world, name) for name, one in services if one.candidate is not None or one.outgoing]
    is_full = any(_waits(one) for one in moving)
    return tuple(one for one in moving if is_full and (_waits(one) or _would_wait(one)))


def _would_wait(view: ServiceView) -> bool:
    """Return whether a way back would wait for room if it went on."""
    return _held_back(view) is not None and not Places(view.observed).would_fit(_needs(view))


def _rank(view: ServiceView) -> tuple[bool, float, str]:
    rollout = view.memory.rollout
    return (not _leads_back(view), rollout.started_at.timestamp() if rollout is not None else 0.0, view.name)


def _is_stuck(view: ServiceView) -> bool:
    """Return whether the eldest has had the room for a whole turn and is still waiting."""
    rollout: Rollout | None = view.memory.rollout
    return rollout is not None and view.now - rollout.started_at >= TURN


# -- who gives way -----------------------------------------------------------------------------------------


def _is_first(view: ServiceView) -> bool:
    """Return whether this is a first deployment without requests: what it gets it keeps."""
    return view.memory.stable is None and view.memory.candidate is not None and is_weightless(view)


def _is_asked(view: ServiceView) -> bool:
    """Return whether a rollout may have to give way although it waits for nothing itself."""
    services = view.world.memory.services
    is_first = _is_first(view)
    return any(_is_back_in(one) or (is_first and _has_requests(one)) for one in services.values())


def _is_back_in(memory: ServiceMemory) -> bool:
    """Return whether a service may be on its way back: by Memory alone, which costs little to ask of all."""
    left = {out.revision for out in memory.outgoing}
    is_going = any(memory.weights.get(cell.key.name) for cell in memory.cells if left and cell.key.revision in left)
    return is_going or (memory.rollout is not None and (memory.rollout.is_fast or memory.pin is not None))


def _has_requests(memory: ServiceMemory) -> bool:
    return memory.stable is not None and any(
        memory.weights.get(cell.key.name) for cell in memory.cells if cell.key.revision != memory.stable
    )


def _follows(view: ServiceView) -> bool:
    """Return whether what gave way waits for the end of another rollout, not only until that one has moved.

    A first deployment would take for good what the next share of the requests needs; beside a way back nobody comes
    again for a moment.
    """
    rollout = view.memory.rollout
    before = view.world.memory.services.get(rollout.yields_to) if rollout is not None else None
    if before is None or not is_weightless(view):
        return False
    other = view_of(view.world, before.name)
    if _leads_back(other):
        return not _is_still(other) and (not _waits(other) or _can_go_first(other, _waiting(view.world)))
    is_parked = before.rollout is not None and before.rollout.is_parked
    return _is_first(view) and _has_requests(before) and not is_parked


def _can_go_first(view: ServiceView, waiting: Iterable[ServiceView]) -> bool:
    return _givers(view, waiting, is_urgent=True) is not None


def _givers(holder: ServiceView, waiting: Iterable[ServiceView], *, is_urgent: bool) -> Mapping[str, bool] | None:
    """Return who has to give way so that a rollout can move on, and whether with their requests; None: in vain.

    All that wait do, since only one may hold a part. Others, and requests, only as far as it needs that.
    """
    rest = [other for other in waiting if other.name != holder.name]
    places, needs = _places_beside(holder, rest), _needs(holder)
    asked = dict.fromkeys((other.name for other in rest), False)
    if places.would_fit(needs):
        return asked
    for other, back in _further(holder, rest) if is_urgent else ():
        _release(places, other, whole=back)
        asked[other.name] = back
        if places.would_fit(needs):
            return asked
    return None


def _further(holder: ServiceView, waiting: Iterable[ServiceView]) -> Iterator[tuple[ServiceView, bool]]:
    """Return who else may be asked, the youngest first, and at last whose requests may go back."""
    known = {holder.name, *(other.name for other in waiting)}
    views = (view_of(holder.world, name) for name in holder.world.memory.services if name not in known)
    rolling = [view for view in views if view.memory.rollout is not None and not _is_still(view)]
    youngest = sorted((view for view in rolling if not is_way_back(view)), key=_rank, reverse=True)
    is_back = _leads_back(holder)
    has_requests = is_back or _has_requests(holder.memory)
    others = youngest if is_back else [view for view in youngest if _is_first(view) and has_requests]
    yield from ((view, False) for view in others)
    able = sorted((*waiting, *(others if is_back else ())), key=_rank, reverse=True)
    yield from ((view, True) for view in able if _can_go_back(view))


def _can_go_back(view: ServiceView) -> bool:
    """Return whether the stable revision carries all requests by itself, so that giving them back takes no room."""
    if view.memory.stable is None or is_weightless(view) or _leads_back(view):
        return False
    return ready_share(view, view.memory.stable) == FULL


# -- what that makes -----------------------------------------------------------------------------------------


def _places_beside(view: ServiceView, others: Iterable[ServiceView]) -> Places:
    """Return the places that there are when others give way with what their requests do not need."""
    places = Places(view.observed)
    for other in others:
        _release(places, other, whole=False)
    return places


def _release(places: Places, view: ServiceView, *, whole: bool) -> None:
    """Let go what a rollout lets go when it gives way."""
    is_whole = whole or (is_weightless(view) and not _is_returning(view))
    for seen, count in _all(view) if is_whole else _surplus(view):
        places.release(seen, count)


def _all(view: ServiceView) -> Iterator[tuple[DeploymentSeen, int]]:
    for cell in view.cells_of(view.memory.candidate):
        for seen in _seen(cell):
            yield seen, len(seen.replicas)


@recalled
def _surplus(view: ServiceView) -> tuple[tuple[DeploymentSeen, int], ...]:
    """Return what a rollout holds beyond what its requests need: what it would stop if it stood still."""
    cells = {cell.memory.key: cell for cell in view.cells}
    commands = (one for one in stand_aside(view) if isinstance(one, SetCapacity))
    found = ((cells[one.cell].deployment(one.deployment), _count(one)) for one in commands)
    return tuple((seen, seen.target - count) for seen, count in found if seen is not None and seen.target > count)


def stand_aside(view: ServiceView) -> tuple[Decision, ...]:
    """Return the moves of a rollout, or of a way back, that gives way: it keeps its share, and what that needs."""
    rollout, back = view.memory.rollout, _held_back(view)
    if back is not None:
        return tuple(one for one in keep(back) if not isinstance(one, StartRevision))
    if rollout is None:
        return ()
    given = rollout if rollout.yields_to else replace(rollout, yields_to="-")
    return keep(replace(view, memory=replace(view.memory, rollout=given)))


def _count(command: SetCapacity) -> int:
    return command.bounds.max_replicas if command.bounds is not None else command.count or 0


def holds_itself_up(view: ServiceView) -> bool:
    """Return whether a rollout would have room to move on if it let go what it holds of other deployments beside it.

    With a surge of several replicas one deployment may get all the room there is, while another one gets none.
    """
    if not _waits(view) or not any(view.budget(name).surge > 1 for name in view.deployments):
        return False
    places = _places_beside(view, [other for other in _waiting(view.world) if other.name != view.name])
    if places.would_fit(_needs(view)):
        return False
    surplus = _surplus(view)
    for seen, count in surplus:
        places.release(seen, count)
    return places.would_fit(_needs(view, Counter({seen.name: count for seen, count in surplus})))


def _needs(view: ServiceView, less: Mapping[str, int] | None = None) -> list[Need]:
    """Return the least with which a rollout moves on: one more of each deployment that keeps its share from rising.

    `less` is what it would let go before, per deployment. A first deployment gets requests only as a whole.
    """
    line = view.memory.stable if _is_returning(view) else view.memory.candidate
    cells = [cell for cell in view.cells_of(line) if cell.seen is not None and cell.seen.deployments]
    if not cells:
        return _first_needs(view)
    carried = view.weights.get(line or "", 0)
    needs: list[Need] = []
    for name in sorted({seen.name for cell in cells for seen in _seen(cell)}):
        found = [seen for cell in cells if (seen := cell.deployment(name)) is not None]
        placed, lacking = sum(map(_placed, found)), sum(map(_homeless, found))
        placed -= max(0, less.get(name, 0) - lacking) if less else 0
        if view.memory.stable is not None:
            lacking = 0 if placed * FULL > (carried + ROUNDING) * view.budget(name).needed else 1
        shape = max(found, key=_homeless)
        needs += [(shape.needs, shape.selector)] * lacking
    return needs


def _seen(cell: CellView) -> tuple[DeploymentSeen, ...]:
    return cell.seen.deployments if cell.seen is not None else ()


def _homeless(seen: DeploymentSeen) -> int:
    return sum(1 for replica in seen.replicas if replica.is_homeless)


def _placed(seen: DeploymentSeen) -> int:
    return sum(1 for replica in seen.replicas if replica.node and replica.state is not ReplicaState.STOPPING)


def _first_needs(view: ServiceView) -> list[Need]:
    """Return one replica of each deployment, as the stable revision's are: of the new one nothing was seen yet."""
    stable = [cell.seen for cell in view.cells_of(view.memory.stable) if cell.seen is not None]
    return [(seen.needs, seen.selector) for application in stable[:1] for seen in application.deployments]
