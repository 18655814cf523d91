"""What others were asked, and what came back, as seen at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from specs.gates import GateReply
from specs.metric_readings import MetricReading


@dataclass(frozen=True, kw_only=True)
class Outward:
    """`under_way` are the calls that have not ended (keys of questions, slots of measurements).

    An outcome stays here until what it belongs to is no longer remembered: to look at it twice changes nothing.
    """

    under_way: frozenset[str] = frozenset()
    replies: tuple[GateReply, ...] = ()
    readings: tuple[MetricReading, ...] = ()

    def reply(self, key: str, failures: int) -> GateReply | None:
        """Return the outcome of one try of a question, or None while there is none."""
        return next((reply for reply in self.replies if (reply.key, reply.failures) == (key, failures)), None)

    def reading(self, slot: str) -> MetricReading | None:
        """Return the newest outcome of a measurement, or None."""
        return next((reading for reading in self.readings if reading.slot == slot), None)
