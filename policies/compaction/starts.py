"""Starts in vain: Serve tries them on ever other nodes, so that what never runs would keep one node after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from specs.observed import CellSeen, DeploymentSeen, ReplicaState

FAILED_STARTS = 3
"""So many failed starts since all replicas last ran are a pattern. A replica that starts once or twice may be about to
run, and to move it would have it load its weights again."""


@dataclass(frozen=True, kw_only=True)
class Starts:
    """How the replicas of one deployment have started since all of them last ran."""

    ran: frozenset[str] = frozenset()
    """Replicas that are there, and have run."""
    began: frozenset[str] = frozenset()
    """Those that start."""
    stopped: frozenset[str] = frozenset()
    """Those that stop without having run; they are counted already."""
    failed: int = 0

    @property
    def are_in_vain(self) -> bool:
        """Return whether they fail again and again."""
        return self.failed >= FAILED_STARTS


def noted(before: Starts, seen: DeploymentSeen) -> Starts:
    """Return what one more look at a deployment tells. A start that is gone without a run has failed."""
    by_state = {
        state: frozenset(replica.id for replica in seen.replicas if replica.state is state) for state in ReplicaState
    }
    running = by_state[ReplicaState.RUNNING]
    if len(running) >= seen.target:
        return Starts(ran=running)
    present = frozenset(replica.id for replica in seen.replicas)
    ran = (before.ran & present) | running
    stopped = by_state[ReplicaState.STOPPING] - ran
    ended = len(stopped - before.stopped) + len(before.began - present)
    return Starts(ran=ran, began=by_state[ReplicaState.STARTING] - ran, stopped=stopped, failed=before.failed + ended)


def name_of(cell: CellSeen, seen: DeploymentSeen) -> str:
    """Return what a deployment of a cell is called in plans."""
    return f"{cell.name}#{seen.name}"


def at_large(starts: Mapping[str, Starts], name: str, seen: DeploymentSeen) -> int:
    """Return how many replicas of a deployment may be on any node by now: those that start in vain."""
    if name not in starts or not starts[name].are_in_vain:
        return 0
    return max(seen.live, seen.target) - seen.count(ReplicaState.RUNNING)
