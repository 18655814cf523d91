"""What is wrong with a cell, in Ray's own words where it has some."""

from __future__ import annotations

from datetime import datetime

from policies.drift import is_disputed
from policies.gates import is_waiting_at_gate
from policies.recall import recalled
from policies.view import CellView, ServiceView
from specs.desired import Analysis, Pause
from specs.memory import Failure
from specs.observed import CellStatus
from specs.reasons import Reason

CRASHES_ALLOWED = 2
"""Replicas that may die during one rollout; more is a crash loop. Serve itself restarts them for ever."""

MESSAGE_LIMIT = 8_000
"""A traceback is kept whole up to this many characters, its end first: the cause stands there."""


def find_failure(view: ServiceView, cell: CellView) -> Failure | None:
    """Return why a cell of the candidate is bad, or None. A failure that was latched stays."""
    if cell.memory.failure is not None:
        return cell.memory.failure
    if cell.seen is None or cell.is_stranded:
        return None  # Where every node is gone, nothing that stopped or does not start is the cell's own fault.
    found = _failed(cell) or _unhealthy(cell) or _crash_looping(view, cell)
    if found is None:
        return None
    reason, message = found
    return Failure(reason=reason, message=clipped(message), at=view.now)


def clipped(message: str) -> str:
    """Return a message short enough to keep; of a long one its end, where tracebacks name the cause."""
    text = message.strip()
    return text if len(text) <= MESSAGE_LIMIT else "[...]\n" + text[-MESSAGE_LIMIT:]


def _failed(cell: CellView) -> tuple[Reason, str] | None:
    seen = cell.seen
    if seen is None:
        return None
    if seen.status is CellStatus.DEPLOY_FAILED and not seen.deployments:
        return Reason.BUILD_FAILED, seen.message
    broken = [deployment for deployment in seen.deployments if deployment.status == "DEPLOY_FAILED"]
    if seen.status is CellStatus.DEPLOY_FAILED or broken:
        return Reason.START_FAILED, " ".join([seen.message, *(deployment.message for deployment in broken)])
    return None


def _unhealthy(cell: CellView) -> tuple[Reason, str] | None:
    seen = cell.seen
    if seen is None:
        return None
    sick = [deployment for deployment in seen.deployments if deployment.status == "UNHEALTHY"]
    if not sick and seen.status is not CellStatus.UNHEALTHY:
        return None
    message = " ".join(f"{deployment.name}: {deployment.message}" for deployment in sick) or seen.message
    return (Reason.HEALTH_CHECK_FAILED if cell.memory.was_ready else Reason.START_FAILED), message


def _crash_looping(view: ServiceView, cell: CellView) -> tuple[Reason, str] | None:
    """Count replicas that are gone though their node is fine and nobody took them away."""
    if cell.seen is None or not cell.seen.deployments:
        return None
    present = {replica.id for deployment in cell.seen.deployments for replica in deployment.replicas}
    gone = {replica: node for replica, node in cell.memory.seen.items() if replica not in present}
    if not gone:
        return None
    nodes = view.observed.nodes
    sound = {node.id for node in nodes if node.is_alive and not node.is_draining}
    died = [replica for replica, node in gone.items() if not node or not nodes or node in sound]
    crashes = len(died) - cell.memory.shrunk
    if crashes <= CRASHES_ALLOWED:
        return None
    words = [seen.message for seen in cell.seen.deployments if seen.message] or [cell.seen.message]
    return Reason.CRASH_LOOP, f"{crashes} replicas died since the start. {' '.join(words)}".strip()


def deadline_failure(view: ServiceView, cell: CellView) -> Failure | None:
    """Return a failure when the candidate has made no progress for `progressDeadline`.

    Only replicas that were asked for and are not ready are the candidate's fault; a pause, a drain of
    the old revision or a Serve that may not be disturbed are not.
    """
    rollout = view.memory.rollout
    if rollout is None or rollout.is_untimed or cell.seen is None or _is_complete(view, cell):
        return None
    if is_disputed(cell.memory, view.now) or cell.is_stranded or cell.is_draining:
        return None
    since = max(rollout.progress_at, cell.memory.building_since)
    if view.now - since < view.spec.rollout.progress_deadline:
        return None
    return Failure(reason=Reason.PROGRESS_DEADLINE_EXCEEDED, message=_deadline_message(view, cell), at=view.now)


def deadline_at(view: ServiceView, cell: CellView) -> datetime | None:
    """Return when the progress deadline strikes if nothing moves, or None when it does not run."""
    rollout = view.memory.rollout
    if rollout is None or rollout.is_untimed or cell.seen is None or _is_complete(view, cell):
        return None
    return max(rollout.progress_at, cell.memory.building_since) + view.spec.rollout.progress_deadline


def _is_complete(view: ServiceView, cell: CellView) -> bool:
    """Return whether all that was asked of the cell is ready: then nothing is waited for."""
    names = cell.deployments
    if not names or cell.seen is None or not cell.seen.deployments:
        return False
    return all(view.ready_in(cell, name) >= cell.commanded(name) for name in names)


def _deadline_message(view: ServiceView, cell: CellView) -> str:
    limit = view.spec.rollout.progress_deadline
    if cell.seen is None or not cell.seen.deployments:
        state = "Serve has been building it all the time; do the nodes have the resources and labels it asks for?"
        said = cell.seen.message if cell.seen else ""
    else:
        counts = (
            f"{name}: {view.ready_in(cell, name)} of {cell.commanded(name)} replicas ready"
            for name in sorted(cell.deployments)
        )
        state = "; ".join(counts)
        said = " ".join(deployment.message for deployment in cell.seen.deployments if deployment.message)
    words = f" Serve says: {said}" if said else ""
    return clipped(f"no progress for {limit}. {state}{words}")


@recalled
def is_pausing(view: ServiceView) -> bool:
    """Return whether time does not count now: a pause, a suspension, a closed window, a gate, a step that waits."""
    rollout = view.memory.rollout
    if view.memory.pause is not None or view.spec.suspend or (rollout is not None and rollout.is_parked):
        return True
    if is_waiting_at_gate(view):
        return True
    if rollout is None or rollout.step >= len(view.spec.rollout.steps):
        return False
    return rollout.reached_at is not None and isinstance(view.spec.rollout.steps[rollout.step], Pause | Analysis)
