"""What to do about fields that somebody else changes in Serve: put right at once, then more and more slowly, then left.

Two writers that race would cut builds and move replicas for ever; whoever is at it must be told, not outrun.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from policies.recall import recalled
from policies.view import ServiceView
from specs.decisions import Hold
from specs.memory import CellMemory, Drift, OutgoingCause
from specs.reasons import Reason

STAYED = timedelta(minutes=5)
"""A field that nobody changed for this long is not fought over: the next change counts as the first."""

MOST_FIGHTS = 6
"""Changes in a row that are put right; who makes a seventh means it."""

TRUCE = timedelta(hours=1)
"""How long a field is left after that. A new commit of the service ends it at once."""

LONGEST_PATIENCE = timedelta(minutes=1)

REPLICAS = "num_replicas"
"""The field that Serve's scale call sets; all others stand in its document."""


def noted(cell: CellMemory, found: Drift) -> Drift:
    """Return a drift that was just found with how often in a row that was."""
    before = next((drift for drift in cell.drifts if drift.where == found.where), None)
    if before is None or found.at - before.at >= STAYED:
        return found
    return Drift(
        field=found.field,
        deployment=found.deployment,
        found=found.found,
        wanted=found.wanted,
        count=before.count + 1,
        first_at=before.first_at,
        at=found.at,
    )


def left_until(drift: Drift) -> datetime:
    """Return until when a drift is left as it is."""
    if drift.count > MOST_FIGHTS:
        return drift.at + TRUCE
    if drift.count == 1:
        return drift.at
    return drift.at + min(LONGEST_PATIENCE, timedelta(seconds=float(2 ** (drift.count - 1))))


def is_left(view: ServiceView, cell: CellMemory, deployment: str) -> bool:
    """Return whether a deployment's count is left to whoever changed it; a rollback's needs come first."""
    if any(outgoing.cause is OutgoingCause.ROLLED_BACK for outgoing in view.memory.outgoing):
        return False
    mine = (drift for drift in cell.drifts if drift.where == (REPLICAS, deployment))
    return any(view.now < left_until(drift) for drift in mine)


def is_entry_left(cell: CellMemory, now: datetime) -> bool:
    """Return whether a cell's entry in Serve's document is left to whoever changed it."""
    return any(now < left_until(drift) for drift in cell.drifts if drift.field != REPLICAS)


def is_disputed(cell: CellMemory, now: datetime) -> bool:
    """Return whether anything of a cell is left to somebody else: what it lacks then is not its own fault."""
    return any(now < left_until(drift) for drift in cell.drifts)


@recalled
def dispute(view: ServiceView) -> Hold | None:
    """Return who keeps changing what, as far as Ray tells, while it is left."""
    for cell in view.cells:
        for drift in cell.memory.drifts:
            until = left_until(drift)
            if view.now < until and not cell.memory.is_retired:
                return Hold(service=view.name, reason=Reason.DRIFTED, message=_told(cell.memory, drift), until=until)
    return None


def _told(cell: CellMemory, drift: Drift) -> str:
    until = left_until(drift)
    does = "is left as it is until" if drift.count > MOST_FIGHTS else "is put right at"
    times = f"{drift.count} times since {drift.first_at:%H:%M:%S}" if drift.count > 1 else "just now"
    return (
        f"{words(cell, drift)}; somebody else changed it {times}, and it {does} {until:%H:%M:%S}. "
        "Ray does not say who: look for `serve deploy`, a RayService, or a script that calls Serve's API"
    )


def words(cell: CellMemory, drift: Drift) -> str:
    """Return what is otherwise than commanded."""
    where = f"{drift.field} of {f'{drift.deployment} of ' if drift.deployment else ''}{cell.key.name}"
    return f"{where} is {drift.found}, not {drift.wanted}" if drift.found else f"{where} is not what was put"
