"""When and where a decision is remembered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from policies.view import ServiceView


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the planner must know of the daemon itself."""

    gateway_url: str
    cluster: str = ""
    """Its name, as gates are told it."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When, where, and on which service's view a decision is remembered."""

    now: datetime
    surroundings: Surroundings
    view: ServiceView | None = None
