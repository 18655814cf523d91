"""How many replicas a deployment may and must have at any moment."""

from __future__ import annotations

from dataclasses import dataclass

from specs.desired import RolloutSettings


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One deployment's numbers: target N, surge S and unavailable U, in replicas."""

    target: int
    surge: int
    unavailable: int

    @property
    def needed(self) -> int:
        """Return N - U, at least 1: how many ready replicas carry all of the service's requests."""
        return max(1, self.target - self.unavailable)

    @property
    def ceiling(self) -> int:
        """Return the most replicas that may be live at any moment."""
        return self.target + self.surge

    @property
    def stops_before_start(self) -> bool:
        """Return whether a new revision fits only once the old one is gone (one replica, no surge)."""
        return self.ceiling <= self.needed


def budget_of(target: int, rollout: RolloutSettings, granted: int | None, *, has_zero: bool) -> Budget:
    """Return a deployment's budget; `granted` is the part of its surge that it may use, None for all of it.

    Where counts go through Serve's document there is no zero: the last replica of the old revision cannot stop before
    another one starts. A rollout that was granted no surge, because it may be short of replicas, would wait for ever.
    """
    surge = rollout.max_surge.round_up(target)
    most = target if has_zero or not surge else target - 1
    unavailable = min(most, rollout.max_unavailable.round_down(target))
    # Without surge and without leave to be short of replicas nothing could ever be replaced.
    least = 0 if unavailable else min(surge, 1)
    return Budget(
        target=target, surge=max(least, min(surge, surge if granted is None else granted)), unavailable=unavailable
    )
