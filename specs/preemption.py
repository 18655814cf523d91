"""Nodes that are about to be taken away: what a cloud says of its spot nodes shortly before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

GRACE = timedelta(seconds=30)
"""So long before a node goes nothing new is sent to it: requests that last longer are rare, and cut either way."""


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """One node's notice. `node` is Ray's id, `by` who told us."""

    node: str
    ip: str
    noticed_at: datetime
    deadline: datetime
    """When the node goes, by our clock."""
    by: str
    why: str = ""
    announced: datetime | None = None
    """The deadline as it was told, by the clock of who did: the same one again is the same notice. None: as above."""
    is_told: bool = False
    """Ray knows: Serve starts replacements. False until then, so that whoever comes after a crash tells it."""

    @property
    def as_told(self) -> datetime:
        """Return the deadline in the words of who told us."""
        return self.announced or self.deadline

    @property
    def left_at(self) -> datetime:
        """Return from when on nothing new is sent there: half of a short notice is for the replacements to start."""
        left = max(timedelta(0), self.deadline - self.noticed_at)
        return max(self.noticed_at, self.deadline - min(GRACE, left / 2))


@dataclass(frozen=True, kw_only=True)
class PreemptionMemory:
    """The notices of nodes that are still there."""

    notices: tuple[Preemption, ...] = ()

    def of(self, node: str) -> Preemption | None:
        """Return a node's notice, or None."""
        return next((notice for notice in self.notices if notice.node == node), None)
