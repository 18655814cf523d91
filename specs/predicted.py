"""How a change would go on the live cluster, as far as that can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from specs.reasons import Reason


class Ending(StrEnum):
    """Where a service is when the prediction ends."""

    DONE = "done"
    HELD = "held"
    UNFINISHED = "unfinished"
    """It still moves: the prediction looks no further."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One event of the prediction, `after` from now. Kinds are those of the daemon's own events."""

    after: timedelta
    kind: str
    message: str


@dataclass(frozen=True, kw_only=True)
class PredictedHold:
    """Why a service waits, from when, and for how long (None: until somebody does something)."""

    reason: Reason
    message: str
    after: timedelta
    lasts: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One resource over the cluster, by Ray's name."""

    name: str
    now: float
    peak: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Unplaced:
    """Replicas that no node has room for at some moment."""

    service: str
    deployment: str
    count: int
    needs: Mapping[str, float]
    after: timedelta


@dataclass(frozen=True, kw_only=True)
class PredictedService:
    """What becomes of one service."""

    name: str
    ending: Ending
    duration: timedelta | None
    """Until it is done; None when it is not."""
    moments: tuple[Moment, ...] = ()
    holds: tuple[PredictedHold, ...] = ()
    peak: Mapping[str, int]
    """Most live replicas per deployment, stopping ones included."""
    before: Mapping[str, int]
    """Live replicas per deployment now."""
    restarts: tuple[str, ...] = ()
    """Ids of the replicas that run now and are gone in the end."""
    started: Mapping[str, int]
    """New replicas per deployment that run in the end."""
    nodes: Mapping[str, int]
    """New replicas per node, in the end."""
    zones: Mapping[str, int]
    """New replicas per availability zone, in the end; "-" for nodes without one."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How a change would go from `at` on. `live` names the state for which that was worked out."""

    at: datetime
    live: str
    is_complete: bool = True
    """False when the daemon did not see everything: then nothing is predicted."""
    problem: str = ""
    services: tuple[PredictedService, ...] = ()
    resources: tuple[Resource, ...] = ()
    peak: int = 0
    """Most live replicas of all services that change, at the same moment."""
    unplaced: tuple[Unplaced, ...] = ()
    duration: timedelta | None = None
    """Until all are done; None when one is not."""
    assumptions: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Return whether every replica finds a node when it is asked for."""
        return not self.unplaced
