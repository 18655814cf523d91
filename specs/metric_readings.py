"""Measurements by a metrics server: what is asked, what came back, and the tally that is kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

QUERY_NAME = r"\$(\$|[A-Za-z_][A-Za-z0-9_]*)?"
"""What stands for something else in a query."""

QUERY_NAMES = ("service", "revision", "stable")
"""What may stand after a dollar sign: the service's name, the candidate's revision and the stable one's."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of a service's analysis. A value outside of `min` to `max` is a failure.

    More than `failure_limit` failures roll back; more than `consecutive_error_limit` errors of the provider in a
    row pause the rollout until it answers again.
    """

    name: str
    query: str
    min: float | None
    max: float | None
    interval: timedelta
    failure_limit: int
    consecutive_error_limit: int

    def distance(self, value: float) -> float:
        """Return how far a value is out of bounds; 0 within."""
        below = self.min - value if self.min is not None else 0.0
        above = value - self.max if self.max is not None else 0.0
        return max(0.0, below, above)

    @property
    def bounds(self) -> str:
        """Return the bounds in words."""
        low = f"at least {self.min:g}" if self.min is not None else ""
        high = f"at most {self.max:g}" if self.max is not None else ""
        return " and ".join(filter(None, (low, high)))


class MetricOutcome(StrEnum):
    """What one measurement came to."""

    VALUE = "value"
    NOTHING = "nothing"
    """The server answered, but with no value to judge: no series, several, or not a number."""
    ERROR = "error"
    """The server did not answer, or refused the query."""


@dataclass(frozen=True, kw_only=True)
class MetricReading:
    """One measurement. `slot` names service, revision and metric; `asked_at` tells it from the one before."""

    slot: str
    asked_at: datetime
    outcome: MetricOutcome
    value: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricTally:
    """What the measurements of one metric came to since the candidate has had requests."""

    metric: str
    asked_at: datetime
    """When the newest counted measurement was asked for."""
    passed: int = 0
    failed: int = 0
    inconclusive: int = 0
    errors: int = 0
    errors_in_a_row: int = 0
    value: float | None = None
    """The newest value."""
    worst: float | None = None
    """The value farthest out of bounds."""
    message: str = ""
    """What the newest measurement said besides a value."""
