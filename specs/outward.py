"""What others were asked, and what came back, as seen at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from specs.gates import GateReply
from specs.metric_readings import MetricReading
from specs.snapshot import Snapshot
from specs.staging import StagingSeen
from specs.wishes import Advice


@dataclass(frozen=True, kw_only=True)
class Outward(Snapshot):
    """`under_way` are the calls that have not ended (keys of questions, slots of measurements).

    An outcome stays here until what it belongs to is no longer remembered: to look at it twice changes nothing.
    """

    under_way: frozenset[str] = frozenset()
    replies: tuple[GateReply, ...] = ()
    readings: tuple[MetricReading, ...] = ()
    policies: frozenset[str] = frozenset()
    """The policies of other packages that the daemon's settings enable, such as `rollout.ramp`."""
    advice: tuple[Advice, ...] = ()
    """What they said last."""
    stagings: tuple[StagingSeen, ...] = ()
    swept: frozenset[str] | None = frozenset()
    """The stagings besides which no other was left running at the last sweep; None before a daemon's first one."""

    def reply(self, key: str, failures: int) -> GateReply | None:
        """Return the outcome of one try of a question, or None while there is none."""
        return next((reply for reply in self.replies if (reply.key, reply.failures) == (key, failures)), None)

    def reading(self, slot: str) -> MetricReading | None:
        """Return the newest outcome of a measurement, or None."""
        return next((reading for reading in self.readings if reading.slot == slot), None)

    def advice_of(self, policy: str, service: str) -> Advice | None:
        """Return what a policy said last of a service, or None."""
        return self._advice.get((policy, service))

    # Every service of a turn asks: looking through all of them each time would cost its square.
    @cached_property
    def _advice(self) -> Mapping[tuple[str, str], Advice]:
        return {(said.policy, said.service): said for said in reversed(self.advice)}

    def staging(self, job: str) -> StagingSeen | None:
        """Return how a staging is getting on, or None before it was looked at."""
        return next((seen for seen in self.stagings if seen.job == job), None)
