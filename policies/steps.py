"""Where a rollout stands when its steps are changed under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from specs.desired import SetWeight, Step
from specs.memory import Rollout


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


def _shape(steps: Sequence[Step]) -> tuple[int | str, ...]:
    """Return the weights in their order, and what else there is by its kind, however long it takes."""
    return tuple(step.weight if isinstance(step, SetWeight) else type(step).__name__ for step in steps)
