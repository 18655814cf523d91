"""Where a rollout stands when its steps are changed under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from specs.desired import SetHeaderRoute, SetWeight, Step
from specs.memory import Rollout
from specs.routes import FULL, HeaderMatch


def weight_at(steps: Sequence[Step], number: int) -> int:
    """Return the share that a step stands for, in basis points; the last one set counts until the next."""
    if number >= len(steps):
        return FULL
    passed = [step.weight for step in steps[: number + 1] if isinstance(step, SetWeight)]
    return passed[-1] * FULL // 100 if passed else 0


def resettle(rollout: Rollout, before: Sequence[Step], after: Sequence[Step]) -> Rollout:
    """Return the rollout at its place among other steps; the number of its step may mean something else there.

    Nothing changes while the steps up to its own are the same but for the length of pauses. Else it stands at
    the first step with at least the weight that it has reached, or at the last one with a weight: a step that
    somebody puts in to stop a rollout stops it.
    """
    if tuple(before) == tuple(after):
        return rollout
    if rollout.step >= len(before):
        return replace(rollout, step=len(after))
    if _shape(before[: rollout.step + 1]) == _shape(after[: rollout.step + 1]):
        return rollout
    weights = {index: step.weight for index, step in enumerate(after) if isinstance(step, SetWeight)}
    passed = [step.weight for step in before[: rollout.step + 1] if isinstance(step, SetWeight)]
    reached = passed[-1] if passed else 0
    place = next((index for index, weight in weights.items() if weight >= reached), max(weights, default=0))
    return replace(rollout, step=place if passed else 0, reached_at=None)


def _shape(steps: Sequence[Step]) -> tuple[Step | str, ...]:
    """Return the steps in their order; of those that wait only the kind, however long they take."""
    return tuple(step if isinstance(step, SetWeight | SetHeaderRoute) else type(step).__name__ for step in steps)


def header_matches(rollout: Rollout | None, steps: Sequence[Step]) -> tuple[HeaderMatch, ...]:
    """Return the headers that ask for the candidate at the step where the rollout stands: any of them will do."""
    if rollout is None or rollout.is_fast:
        return ()
    named = {step.name: step.matches for step in steps[: rollout.step + 1] if isinstance(step, SetHeaderRoute)}
    return tuple(dict.fromkeys(match for matches in named.values() for match in matches))
