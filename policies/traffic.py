"""Weights: who gets which share of the requests (invariant I1)."""

from __future__ import annotations

from collections.abc import Mapping

from policies.baseline import left_over
from policies.recall import recalled
from policies.view import ServiceView
from specs.memory import BASELINE, Outgoing, OutgoingCause
from specs.routes import FULL


@recalled
def ready_share(view: ServiceView, revision: str | None) -> int:
    """Return the largest share, in basis points, that a revision's ready replicas can carry.

    That is what its cells can carry together, rounded down and at most `FULL`. A cell that is on its way out does
    not count.
    """
    return min(FULL, int(view.carried(revision) * FULL))


def next_weights(view: ServiceView, goal: Mapping[str, int]) -> Mapping[str, int]:
    """Return the weights per revision to route now on the way to `goal` (both sum to `FULL`).

    A raise is limited by the ready share; what cannot be raised yet stays where it is. A revision
    that does not answer at all loses its requests at once to those that do, even if that overloads them.
    """
    current = view.weights
    answering = {revision for revision in view.revisions if view.is_serving(revision)}
    if not answering:
        return current
    if sum(current.values()) == 0:
        return _first_weights(view, goal, answering)
    alive = {revision: share for revision, share in current.items() if revision in answering}
    if sum(alive.values()) < FULL:
        return _without_broken(view, current, answering)
    return _shifted(view, current, goal)


def _first_weights(view: ServiceView, goal: Mapping[str, int], answering: set[str]) -> Mapping[str, int]:
    """Route a service that has no share anywhere: all or nothing."""
    zero = dict.fromkeys(view.revisions, 0)
    stable, candidate = view.memory.stable, view.memory.candidate
    if stable in answering:
        return zero | {stable: FULL} if stable else zero
    if stable is None and candidate is not None and goal.get(candidate) == FULL:
        return zero | {candidate: FULL} if ready_share(view, candidate) == FULL else zero
    return zero


def _without_broken(view: ServiceView, current: Mapping[str, int], answering: set[str]) -> Mapping[str, int]:
    """Give the share of revisions that do not answer to those that do.

    They go by what they carry already; when none of them carries anything, stable first.
    """
    current = _given_back(current, answering)
    carried = {revision: current[revision] for revision in view.revisions if revision in answering}
    total = sum(carried.values())
    if total == 0:
        heir = next(revision for revision in view.revisions if revision in answering)
        return {revision: FULL if revision == heir else 0 for revision in view.revisions}
    shares = {revision: carried.get(revision, 0) * FULL // total for revision in view.revisions}
    largest = max(carried, key=lambda revision: carried[revision])
    shares[largest] += FULL - sum(shares.values())
    return shares


def _given_back(current: Mapping[str, int], answering: set[str]) -> Mapping[str, int]:
    """Return a lost baseline's share to its own revision: no candidate is to carry more for it."""
    shares = dict(current)
    for line, share in current.items():
        revision, mark, _ = line.partition(BASELINE)
        if mark and line not in answering and revision in answering:
            shares[line] = 0
            shares[revision] += share
    return shares


def _shifted(view: ServiceView, current: Mapping[str, int], goal: Mapping[str, int]) -> Mapping[str, int]:
    """Move towards `goal` as far as the receivers' ready shares allow; outgoing revisions give first."""
    shares = dict(current)
    freed = 0
    for revision in view.revisions:
        allowed = min(goal.get(revision, 0), max(current[revision], ready_share(view, revision)))
        if allowed > current[revision]:
            shares[revision] = allowed
            freed += allowed - current[revision]
    for revision in reversed(view.revisions):
        given = min(freed, max(0, current[revision] - goal.get(revision, 0)))
        shares[revision] -= given
        freed -= given
    return shares


def routed_outgoing(view: ServiceView) -> list[Outgoing]:
    """Return what is on its way out and has requests yet."""
    return [out for out in view.memory.outgoing if view.weights.get(out.revision, 0) > 0]


@recalled
def heir(view: ServiceView) -> str | None:
    """Return who is to carry all requests while the candidate waits for room that outgoing revisions hold.

    None when it does not wait. They would hold it for ever: what the candidate cannot take from them yet
    goes to the stable revision, and before there is any to the largest of them.
    """
    memory, routed = view.memory, routed_outgoing(view)
    if memory.candidate is None or view.cells_of(memory.candidate):
        return None
    if memory.stable is not None and (routed or any(view.weights.get(line, 0) for line in left_over(view))):
        return memory.stable
    if not routed:
        return None
    best = max(routed, key=lambda out: (out.cause is not OutgoingCause.ROLLED_BACK, view.weights[out.revision]))
    return best.revision


def comes_first(view: ServiceView) -> bool:
    """Return whether a candidate that waits for room comes before the one that is to carry all requests meanwhile.

    That one is mostly there soon. Where its replicas fail again and again it never is, and what is on its way out goes
    on carrying the rest: who has waited for `progressDeadline` starts beside them.
    """
    rollout = view.memory.rollout
    if rollout is None or heir(view) is None:
        return False
    return view.has_lasted(rollout.progress_at, view.spec.rollout.progress_deadline)
