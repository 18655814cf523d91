"""Who waits for whom: a rollout starts when all that it depends on is healthy at its own wanted revision."""

from __future__ import annotations

from policies.view import ServiceView, view_of
from specs.decisions import Hold, StartRollout
from specs.problems import did_you_mean
from specs.reasons import Reason
from specs.world import World


def await_dependencies(world: World, decision: StartRollout) -> Hold | None:
    """Return why the start of a rollout waits: something that it depends on is not ready; None when all is."""
    wanted = world.memory.services[decision.service].wanted
    waits = [text for name in wanted.depends_on if (text := _what_is_missing(world, name)) is not None]
    if not waits:
        return None
    return Hold(service=decision.service, reason=Reason.DEPENDENCY_NOT_READY, message=f"waits for {'; '.join(waits)}")


def _what_is_missing(world: World, name: str) -> str | None:
    """Return what a dependency lacks, None when it is healthy at the revision that its own spec wants."""
    known = world.memory.services
    if name not in known:
        near = did_you_mean(name, known)
        return f"{name}, which no spec describes{f' (did you mean {near}?)' if near else ''}"
    return _state(view_of(world, name))


def _state(view: ServiceView) -> str | None:
    memory, wanted = view.memory, view.spec.revision.id
    quarantined = memory.quarantined(wanted)
    if memory.is_removed:
        return f"{view.name}, which is being removed"
    if quarantined is not None:
        return f"{view.name}, whose {wanted} was taken back ({quarantined.reason})"
    if memory.candidate is not None:
        return f"{view.name}, which is on its way to {memory.candidate}"
    if memory.stable != wanted:
        return f"{view.name}, which does not run {wanted} yet"
    short = [name for name in view.needed if view.ready(wanted, name) < view.budget(name).needed]
    if short or not view.is_serving(wanted):
        counts = (f"{name} {view.ready(wanted, name)} of {view.budget(name).needed}" for name in short)
        return f"{view.name}, which is not healthy ({', '.join(counts) or 'no replica answers'})"
    return None
