"""When and where a decision is remembered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from policies.view import ServiceView
from specs.amount import Amount
from specs.desired import PruneSettings
from specs.strict import MAX_COUNT

NO_PRUNE_LIMITS = PruneSettings(enabled=True, max_services=MAX_COUNT, max_fraction=Amount(value=100, is_percent=True))


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the planner must know of the daemon itself."""

    gateway_url: str
    cluster: str = ""
    """Its name, as gates are told it."""
    prune: PruneSettings = NO_PRUNE_LIMITS
    """What may be removed at most, whatever the ClusterPolicy says: that one is written by who is guarded against."""
    stage_python: str = "python"
    """The cluster's Python, which brings weights to nodes."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When, where, and on which service's view a decision is remembered."""

    now: datetime
    surroundings: Surroundings
    view: ServiceView | None = None
