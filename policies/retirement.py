"""The way out: revisions that were replaced, given up or rolled back, and services that left Git."""

from __future__ import annotations

from datetime import datetime

from policies.baseline import left_over
from policies.recall import recalled
from policies.view import CellView, ServiceView
from policies.way_back import baking_until
from specs.decisions import Decision, Drain, EndOutgoing, ForgetCell, ForgetService, Retire, SetWeights
from specs.memory import Outgoing, OutgoingCause


@recalled
def retire_outgoing(view: ServiceView) -> tuple[Decision, ...]:
    """Return the next step of every outgoing revision: drain, retire, and at last forget."""
    decisions: list[Decision] = list(forget_gone(view))
    for outgoing in view.memory.outgoing:
        if not any(cell.memory.key.revision == outgoing.revision for cell in view.cells):
            decisions.append(EndOutgoing(service=view.name, revision=outgoing.revision))
        elif _may_go(view, outgoing):
            urgent = outgoing.cause is OutgoingCause.ROLLED_BACK
            decisions += [leave(view, cell, urgent) for cell in view.cells_of(outgoing.revision) if is_due(view, cell)]
    return (*decisions, *_retire_baselines(view))


def _retire_baselines(view: ServiceView) -> tuple[Decision, ...]:
    """Let baselines go that nothing is compared with, once others have their requests."""
    free = [line for line in left_over(view) if not view.has_requests(line)]
    if not view.is_serving(view.memory.stable):
        return ()
    return tuple(leave(view, cell, urgent=False) for line in free for cell in view.cells_of(line) if is_due(view, cell))


@recalled
def forget_gone(view: ServiceView) -> tuple[Decision, ...]:
    """Forget retired cells that a complete observation no longer shows."""
    if not view.is_complete:
        return ()
    gone = (cell for cell in view.cells if cell.memory.is_retired and cell.seen is None)
    return tuple(ForgetCell(service=view.name, cell=cell.memory.key) for cell in gone)


def retire_removed(view: ServiceView) -> tuple[Decision, ...]:
    """Take a removed service away: its requests end first, then its cells go, then its memory."""
    if not view.cells:
        return (ForgetService(service=view.name),)
    leaving = (cell for cell in view.cells if not cell.memory.is_retired and is_due(view, cell))
    return (*forget_gone(view), *(leave(view, cell, urgent=False) for cell in leaving))


def is_weightless(view: ServiceView) -> bool:
    """Return whether the candidate carries nothing, so that it costs no request to take it away for a while."""
    return not view.has_requests(view.memory.candidate or "")


def withdraw(view: ServiceView) -> tuple[Decision, ...]:
    """Take the candidate's cells away for a while, if they carry nothing: they are created again at its turn."""
    if not is_weightless(view):
        return ()
    return tuple(leave(view, cell, urgent=False) for cell in view.cells_of(view.memory.candidate) if is_due(view, cell))


def _may_go(view: ServiceView, outgoing: Outgoing) -> bool:
    """Return whether a revision carries nothing and need not be kept warm any longer.

    Nothing leaves while the stable revision does not answer: what leaves might be needed.
    """
    if view.has_requests(outgoing.revision):
        return False
    if outgoing.cause is OutgoingCause.REPLACED:
        return view.now >= warm_until(view, outgoing) and view.is_serving(view.memory.stable)
    return True


def warm_until(view: ServiceView, outgoing: Outgoing) -> datetime:
    """Return how long a replaced revision is kept: for `scaleDownDelay`, or as long as it may be fallen back on."""
    delay = outgoing.since + view.spec.rollout.scale_down_delay
    baking, until = view.memory.baking, baking_until(view)
    if until is None or baking is None or baking.back_to != outgoing.revision:
        return delay
    return max(delay, until)


def is_due(view: ServiceView, cell: CellView) -> bool:
    """Return whether a cell is to start draining, or has drained: nothing in flight, or time is over.

    A removed service's lanes are free again when they have drained, which the gateway remembers; any other cell
    without a lane belongs to a gateway that has forgotten it, and what is in flight is not known.
    """
    started = cell.memory.drain_since
    if started is None:
        return True
    record = view.memory.revision(cell.revision)
    longest = record.max_request_duration if record else view.spec.revision.max_request_duration
    gateway, in_flight = view.observed.gateway, view.in_flight(cell)
    has_drained = in_flight == 0 if in_flight is not None else gateway is not None and cell.name in gateway.drained
    return has_drained or view.now - started >= longest


def but_routed(decisions: tuple[Decision, ...]) -> tuple[Decision, ...]:
    """Return the decisions of a look without those that take away what gets requests by the same look.

    What was on its way out takes over when all others have broken just now: its requests have their time from when
    they leave it again.
    """
    given = [one.weights for one in decisions if isinstance(one, SetWeights)]
    routed = {cell for weights in given for cell, weight in weights.items() if weight > 0}
    return tuple(one for one in decisions if not (isinstance(one, Drain | Retire) and one.cell.name in routed))


def leave(view: ServiceView, cell: CellView, urgent: bool) -> Decision:
    """Return the next step of a cell without weight: it drains, then it is retired."""
    if cell.memory.drain_since is None:
        return Drain(service=view.name, cell=cell.memory.key)
    return Retire(service=view.name, cell=cell.memory.key, is_urgent=urgent)
