"""Rollouts that stand where they are until somebody else moves them on: people, gates, requests, another server."""

from __future__ import annotations

from policies.counsel import stands
from policies.gates import is_held_at_gate
from policies.metrics import silent_metric
from policies.recall import recalled
from policies.verdicts import lacks_requests
from policies.view import ServiceView
from specs.desired import Analysis, Pause


@recalled
def waits_for_others(view: ServiceView) -> bool:
    """Return whether nothing that Heliostat does moves the rollout on."""
    if view.memory.candidate is None:
        return False
    return waits_for_a_person(view) or is_held_at_gate(view) or bool(silent_metric(view)) or stands(view) is not None


def waits_for_a_person(view: ServiceView) -> bool:
    """Return whether only others move the rollout on: people, a new commit, requests that an analysis lacks."""
    rollout, steps = view.memory.rollout, view.spec.rollout.steps
    if is_frozen(view):
        return True
    if rollout is None or rollout.reached_at is None or rollout.step >= len(steps):
        return False
    step = steps[rollout.step]
    if isinstance(step, Analysis):
        return lacks_requests(view)
    return isinstance(step, Pause) and step.duration is None


def is_frozen(view: ServiceView) -> bool:
    """Return whether the rollout stands still on purpose: a person's pause, or a failure to be looked at."""
    failed = any(cell.memory.failure is not None for cell in view.cells_of(view.memory.candidate))
    return view.memory.pause is not None or failed
