"""How many replicas a deployment may and must have at any moment."""

from __future__ import annotations

from dataclasses import dataclass


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
