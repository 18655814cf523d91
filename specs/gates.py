"""Gates: services of others that are asked, or told, at points of a rollout."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class GateAt(StrEnum):
    """When a gate is called, as written in specs."""

    BEFORE_STEP = "beforeStep"
    """Before each step that sets a weight; who asks for the candidate by a header gets it unasked."""
    BEFORE_PROMOTION = "beforePromotion"
    """Before the candidate gets all requests."""
    AFTER_ROLLBACK = "afterRollback"


class GateKind(StrEnum):
    """What the answer is for."""

    CONFIRM = "confirm"
    """Without a yes the rollout stays where it is."""
    NOTIFY = "notify"
    """It is told, and nothing waits for it."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate of a service. `retries` are further tries in a row; `interval` is how long a no stands."""

    name: str
    at: GateAt
    kind: GateKind
    url: str
    timeout: timedelta
    retries: int
    interval: timedelta


class GateState(StrEnum):
    """What became of a question so far."""

    ASKED = "asked"
    PASSED = "passed"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    OVERRULED = "overruled"
    """A person went on without an answer."""


@dataclass(frozen=True, kw_only=True)
class GateCall:
    """One question to one gate, remembered before it is asked.

    `key` names the question: a repeat after a time-out or a restart carries the same one, a question that is
    asked anew after a no another. `failures` are the tries of this question that got no answer, `next_at` is
    when it may be tried (again), `body` the JSON that is sent.
    """

    gate: str
    revision: str
    step: int
    """The step that it stands before; the number of steps for the way to 100%."""
    key: str
    body: str
    next_at: datetime
    is_notice: bool = False
    round: int = 1
    failures: int = 0
    state: GateState = GateState.ASKED
    message: str = ""

    @property
    def question(self) -> str:
        """Return what the keys of all rounds of a question have in common."""
        return self.key.rpartition(".")[0]

    @property
    def is_settled(self) -> bool:
        """Return whether nothing is to be asked any more; a notice that cannot be delivered is given up."""
        gave_up = self.is_notice and self.state in (GateState.REFUSED, GateState.UNANSWERED)
        return gave_up or self.state in (GateState.PASSED, GateState.OVERRULED)


class GateVerdict(StrEnum):
    """What one try got."""

    YES = "yes"
    NO = "no"
    NOTHING = "nothing"
    """No answer, or none that can be read."""


@dataclass(frozen=True, kw_only=True)
class GateReply:
    """The outcome of one try, `failures` tries of the same question having failed before."""

    key: str
    failures: int
    verdict: GateVerdict
    message: str = ""
