"""Everything that is decided for one service in one look: the order matters, and is this file's only job."""

from __future__ import annotations

from collections.abc import Callable

from policies.explain import explain
from policies.retirement import forget_gone, retire_outgoing, retire_removed
from policies.revisions import choose, judge
from policies.rollout import advance, move, route_as_is
from policies.verdicts import failed_analysis
from policies.view import ServiceView, view_of
from policies.way_back import watch
from specs.decisions import Decision, Hold
from specs.reasons import Reason
from specs.world import World

Veto = Callable[[Decision], Decision]
"""Weakens a decision to a Hold, or lets it pass."""


def decide(world: World, name: str, veto: Veto) -> tuple[Decision, ...]:
    """Return what to do for a service that Memory knows; never nothing: at least a Hold with a reason.

    A change of course that `veto` puts off must not stop what keeps the present course right.
    """
    view = view_of(world, name)
    if not world.observed.complete:
        return (blind(view),)
    if view.memory.is_removed:
        return (*retire_removed(view), _removing(view))
    if view.spec.suspend:
        return (*route_as_is(view), explain(view))
    verdict = judge(view) or failed_analysis(view) or watch(view)
    if verdict:
        return (*verdict, explain(view))
    course = choose(view)
    if course is None:
        return carry_on(view)
    allowed = veto(course)
    return (allowed, *carry_on(view)) if isinstance(allowed, Hold) else (allowed, explain(view))


def carry_on(view: ServiceView) -> tuple[Decision, ...]:
    """Return the next moves on the present course."""
    if is_frozen(view):
        return (*route_as_is(view), *forget_gone(view), explain(view))
    step = advance(view)
    if step is not None:
        return (step, explain(view))
    return (*move(view), *retire_outgoing(view), explain(view))


def is_frozen(view: ServiceView) -> bool:
    """Return whether the rollout stands still on purpose: a person's pause, or a failure to be looked at."""
    failed = any(cell.memory.failure is not None for cell in view.cells_of(view.memory.candidate))
    return view.memory.pause is not None or failed


def blind(view: ServiceView) -> Hold:
    """Hold because what is seen is not the whole truth: unknown is not empty."""
    observed = view.world.observed
    reason = Reason.GATEWAY_UNREACHABLE if observed.gateway is None else Reason.RAY_UNREACHABLE
    return Hold(service=view.name, reason=reason, message=observed.problem or "the observation is not complete")


def _removing(view: ServiceView) -> Hold:
    left = sum(1 for cell in view.cells)
    return Hold(service=view.name, reason=Reason.DRAINING, message=f"removed from Git; {left} cell(s) left")
