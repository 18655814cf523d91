"""Replicas: how many each revision is to have now (invariant I2), capacity following the traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.counsel import aim
from policies.traffic import heir
from policies.view import Budget, ServiceView
from specs.desired import AutoScale
from specs.observed import ReplicaState
from specs.routes import FULL


def share_of(weight: int, replicas: int) -> int:
    """Return how many of `replicas` carry `weight` basis points, rounded up."""
    return -(-weight * replicas // FULL)


def carriers_of(weight: int, replicas: int) -> int:
    """Return how many of `replicas` carry what is left of a share that was rounded to basis points.

    One of them is forgiven: two replicas of three are ready for 6666 points, the third keeps 3334 and is still
    one replica, not two.
    """
    return max(1, share_of(weight - 1, replicas)) if weight > 0 else 0


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One deployment's counts per revision: what is to be commanded now, and where that leads.

    `room` is what the budget allows beyond that; negative when above it. `is_tight`: somebody waits for room.
    """

    now: Mapping[str, int]
    goal: Mapping[str, int]
    room: int
    is_tight: bool


def goal_counts(view: ServiceView, deployment: str, goal: Mapping[str, int]) -> Mapping[str, int]:
    """Return the counts per revision that carry `goal` (basis points) within the budget.

    With M = N - maxUnavailable, ceil(wM) + ceil((1-w)M) <= M + 1 <= N + maxSurge, so both always fit.
    """
    budget = view.budget(deployment)
    stable, candidate = heir(view) or view.memory.stable, view.memory.candidate
    counts = dict.fromkeys(view.revisions, 0)
    if candidate is None:
        return counts | ({stable: budget.target} if stable is not None else {})
    if stable is None:
        return counts | {candidate: budget.target}
    if budget.stops_before_start:
        return counts | {candidate: budget.target}
    weight = goal.get(candidate, 0)
    stable_needs = share_of(FULL - weight, budget.needed)
    most = max(budget.ceiling - stable_needs, share_of(weight, budget.needed))
    aimed = aim(view)
    wished = aimed.replicas.get(deployment, 0) if aimed is not None else 0
    counts[candidate] = max(1, min(max(share_of(weight, budget.target), wished), most))
    counts[stable] = max(budget.target - counts[candidate], stable_needs)
    return counts


def next_counts(view: ServiceView, deployment: str, goal: Mapping[str, int], weights: Mapping[str, int]) -> Counts:
    """Return what to command now: shrink what carries too little to deserve it, grow into the room.

    `weights` are the basis points per revision about to be routed. A shrink never takes capacity that
    today's or the next weights need, nor serving replicas below N - maxUnavailable; a growth never
    exceeds N + maxSurge, counting replicas that are still stopping. What was commanded and Serve has not
    heard of (it could not be reached, say) is decided anew: the world may have changed since. What an
    outgoing revision or Serve's autoscaling has beyond its goal goes only when somebody needs the room.
    """
    budget = view.budget(deployment)
    target = goal_counts(view, deployment, goal)
    present = [revision for revision in view.revisions if _has(view, revision, deployment)]
    now = {revision: _followed(view, revision, deployment) for revision in present}
    room = view.room(deployment)
    wants = sum(max(0, target[revision] - count) for revision, count in now.items())
    for revision in present:
        unheard = _unheard(view, revision, deployment)
        growth = max(0, min(target[revision] - now[revision], room + unheard))
        now[revision] += growth
        room += unheard - growth
        wants -= growth
    unmet = max(0, wants + _pending_start(view, deployment) - max(0, room))
    is_tight = unmet > 0
    spare = _spare(view, deployment, budget, weights)
    for revision in reversed(present):
        floor = max(target[revision], _carried(view, revision, weights, budget))
        excess = max(0, now[revision] - floor)
        if _leaves_by_retirement(view, revision) or isinstance(view.scale(deployment), AutoScale):
            excess = min(excess, unmet)
        unstarted = max(0, now[revision] - _running(view, revision, deployment))
        if _is_routed(view, revision, weights):
            excess = min(excess, spare + unstarted)
            spare -= max(0, excess - unstarted)
        now[revision] -= excess
        unmet = max(0, unmet - excess)
    return Counts(now=now, goal=target, room=room, is_tight=is_tight)


def _has(view: ServiceView, revision: str, deployment: str) -> bool:
    return deployment in view.deployments_of(revision)


def _followed(view: ServiceView, revision: str, deployment: str) -> int:
    return sum(cell.followed(deployment) for cell in view.cells_of(revision))


def _unheard(view: ServiceView, revision: str, deployment: str) -> int:
    """Return the growth that was commanded, and is counted, though Serve does not work towards it yet."""
    cells = view.cells_of(revision)
    return sum(max(0, cell.commanded(deployment) - cell.followed(deployment)) for cell in cells)


def _pending_start(view: ServiceView, deployment: str) -> int:
    """Return 1 while the candidate still waits for room for its first replica."""
    candidate = view.memory.candidate
    return 1 if candidate is not None and not view.cells_of(candidate) else 0


def _leaves_by_retirement(view: ServiceView, revision: str) -> bool:
    """Return whether a revision is outgoing: before it retires it only makes room that others need."""
    return revision not in (view.memory.stable, view.memory.candidate)


def _running(view: ServiceView, revision: str, deployment: str) -> int:
    """Return the replicas that Serve may take for a shrink: it stops those that have not started first."""
    seen = (cell.deployment(deployment) for cell in view.cells_of(revision))
    return sum(found.count(ReplicaState.RUNNING) for found in seen if found is not None)


def _carried(view: ServiceView, revision: str, weights: Mapping[str, int], budget: Budget) -> int:
    """Return the replicas that a revision needs for what is routed to it now or next."""
    if budget.stops_before_start and view.memory.candidate is not None:
        return 0
    return carriers_of(max(view.weights[revision], weights.get(revision, 0)), budget.needed)


def _is_routed(view: ServiceView, revision: str, weights: Mapping[str, int]) -> bool:
    return view.weights[revision] > 0 or weights.get(revision, 0) > 0


def _spare(view: ServiceView, deployment: str, budget: Budget, weights: Mapping[str, int]) -> int:
    """Return how many serving replicas may go without falling below N - maxUnavailable.

    Serve chooses the victims of a shrink, so every one of them is taken for a serving replica.
    """
    routed = [revision for revision in view.revisions if _is_routed(view, revision, weights)]
    serving = sum(min(view.serving(rev, deployment), _followed(view, rev, deployment)) for rev in routed)
    return max(0, serving - (budget.target - budget.unavailable))
