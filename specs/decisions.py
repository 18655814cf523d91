"""What is to happen, in operators' words. A closed union: a new decision must be handled everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from specs.cells import CellKey
from specs.commands import Command
from specs.desired import DesiredService, Revision
from specs.gates import Gate, GateCall, GateState
from specs.memory import Bounds, Drift, Failure, OutgoingCause, Pin
from specs.placement import Placing
from specs.reasons import Reason
from specs.staging import Staged


@dataclass(frozen=True, kw_only=True)
class AdoptSpec:
    """Take the commit's spec of a service as the one to hold to."""

    service: str
    wanted: DesiredService
    commit: str = ""
    """The id of the commit that says so."""


@dataclass(frozen=True, kw_only=True)
class StartRollout:
    """Make `revision` the candidate; a previous candidate becomes outgoing."""

    service: str
    revision: Revision
    is_fast: bool = False
    previous: OutgoingCause = OutgoingCause.SUPERSEDED
    surge: Mapping[str, int] = field(default_factory=dict)
    """Surge per deployment, where it gets less than its spec allows."""


@dataclass(frozen=True, kw_only=True)
class StartRevision:
    """Create one cell of a revision with these counts and bounds per listed deployment.

    `joins` is the generation of the baseline that a further cell belongs to.
    """

    service: str
    cell: CellKey
    counts: Mapping[str, int]
    bounds: Mapping[str, Bounds]
    is_baseline: bool = False
    joins: int | None = None


@dataclass(frozen=True, kw_only=True)
class RestoreCell:
    """Put back a cell of ours that somebody else removed, or that the Ray head lost."""

    service: str
    cell: CellKey


@dataclass(frozen=True, kw_only=True)
class SetCapacity:
    """Command one deployment of one cell: `count` when fixed, `bounds` when autoscaled."""

    service: str
    cell: CellKey
    deployment: str
    count: int | None = None
    bounds: Bounds | None = None


@dataclass(frozen=True, kw_only=True)
class SetWeights:
    """Route a service: basis points per cell name, in threshold order (stable first)."""

    service: str
    route: str
    weights: Mapping[str, int]
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class LimitSurge:
    """The running rollout uses less surge than its spec allows, per deployment: there is no room for more."""

    service: str
    limits: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class GiveWay:
    """The rollout lets go what it holds of the room that it shares with another one's; "" ends that.

    One that `goes_back` gives its requests back, too, and begins again at its first step.
    """

    service: str
    to: str
    goes_back: bool = False


@dataclass(frozen=True, kw_only=True)
class Park:
    """The rollout stands still for a person, a window or somebody else: it no longer counts as moving."""

    service: str


@dataclass(frozen=True, kw_only=True)
class Proceed:
    """A rollout goes on; one that was parked counts as moving again. `is_way_back`: to a revision that was good."""

    service: str
    is_way_back: bool = False


@dataclass(frozen=True, kw_only=True)
class EnterStep:
    """The rollout moves on to the step with this index."""

    service: str
    step: int
    by: str = "heliostat"
    message: str = ""
    """What the step before came to, when there is more to say than that it is over."""


@dataclass(frozen=True, kw_only=True)
class ReachStep:
    """The current step's goal is reached; a pause counts from now."""

    service: str


@dataclass(frozen=True, kw_only=True)
class AskGate:
    """A gate is to be asked (or told) before the rollout goes to this step."""

    service: str
    gate: Gate
    revision: str
    step: int


@dataclass(frozen=True, kw_only=True)
class HearGate:
    """A gate answered, or did not: `call` is the question after that, `was` its state before."""

    service: str
    call: GateCall
    was: GateState


@dataclass(frozen=True, kw_only=True)
class OverruleGates:
    """A person goes past these gates of a step."""

    service: str
    step: int
    gates: tuple[str, ...]
    by: str


@dataclass(frozen=True, kw_only=True)
class NoteStaging:
    """The staging of the running rollout's weights ended."""

    service: str
    staged: Staged


@dataclass(frozen=True, kw_only=True)
class Promote:
    """The candidate takes all traffic: it is the stable revision now."""

    service: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class RollBack:
    """The candidate goes back; `quarantine` keeps it from being tried again."""

    service: str
    revision: str
    reason: Reason
    message: str
    cause: OutgoingCause = OutgoingCause.ROLLED_BACK
    quarantine: bool = True
    by: str = "heliostat"


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """Keep a revision from being tried (again)."""

    service: str
    revision: str
    reason: Reason
    message: str
    by: str = "heliostat"


@dataclass(frozen=True, kw_only=True)
class Release:
    """An operator's `retry`: the revision may be tried again."""

    service: str
    revision: str
    by: str


@dataclass(frozen=True, kw_only=True)
class PinRevision:
    """An operator's `rollback` (or, with None, its end)."""

    service: str
    pin: Pin | None
    by: str = "heliostat"


@dataclass(frozen=True, kw_only=True)
class FallBack:
    """Leave the stable `revision` for `to`, which was good before: `revision` is quarantined and `to` pinned.

    The way back from a revision that Git still wants: an operator's `rollback`, or a regression after 100%.
    """

    service: str
    revision: str
    to: Revision
    is_fast: bool
    reason: Reason
    message: str
    by: str = "heliostat"


@dataclass(frozen=True, kw_only=True)
class EndBake:
    """The watch window after 100% is over: the revision before needs to be kept for it no longer."""

    service: str
    by: str = "heliostat"


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """A person's command is carried out by the decisions after this one: who, what and why, for the record."""

    service: str
    command: Command

    @property
    def by(self) -> str:
        """Return who gave it."""
        return self.command.by


@dataclass(frozen=True, kw_only=True)
class PauseRollout:
    """An operator's `pause`."""

    service: str
    by: str
    why: str


@dataclass(frozen=True, kw_only=True)
class ResumeRollout:
    """An operator's `resume`."""

    service: str
    by: str


@dataclass(frozen=True, kw_only=True)
class LatchFailure:
    """Remember a cell's failure before anything else is done to it."""

    service: str
    cell: CellKey
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class Drain:
    """A cell gets no request any more; its last ones are given time."""

    service: str
    cell: CellKey


@dataclass(frozen=True, kw_only=True)
class Retire:
    """Take a cell out of Serve. `is_urgent` may cut builds: a rollback or an abort needs its room."""

    service: str
    cell: CellKey
    is_urgent: bool = False


@dataclass(frozen=True, kw_only=True)
class NoteDrift:
    """Somebody else changed a field of a cell in Serve. Told and counted; healing it is decided by that count."""

    service: str
    cell: CellKey
    drift: Drift
    text: str
    """What is done about it, for a person."""


@dataclass(frozen=True, kw_only=True)
class NoteTrouble:
    """A policy of another package fails: told once in a while, not at every look."""

    service: str
    policy: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class HeedWish:
    """From now on replicas are divided as another package's placement policy wishes; None: as without one.

    `message` is for people, "" where only the books are kept.
    """

    service: str
    placing: Placing | None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class ForgetCell:
    """A retired cell was seen gone."""

    service: str
    cell: CellKey


@dataclass(frozen=True, kw_only=True)
class EndOutgoing:
    """Nothing of an outgoing revision is left."""

    service: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class Remove:
    """The service left the repository and the prune guard lets it go."""

    service: str


@dataclass(frozen=True, kw_only=True)
class ForgetService:
    """Nothing of a removed service is left."""

    service: str


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Nothing to do now, and why; `until` when time alone will change that."""

    service: str
    reason: Reason
    message: str
    until: datetime | None = None


Decision = (
    AdoptSpec
    | StartRollout
    | StartRevision
    | RestoreCell
    | SetCapacity
    | SetWeights
    | LimitSurge
    | GiveWay
    | Park
    | Proceed
    | EnterStep
    | ReachStep
    | AskGate
    | HearGate
    | OverruleGates
    | NoteStaging
    | Promote
    | RollBack
    | Quarantine
    | Release
    | PinRevision
    | FallBack
    | EndBake
    | Ordered
    | PauseRollout
    | ResumeRollout
    | LatchFailure
    | Drain
    | Retire
    | NoteDrift
    | NoteTrouble
    | HeedWish
    | ForgetCell
    | EndOutgoing
    | Remove
    | ForgetService
    | Hold
)
