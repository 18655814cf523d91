"""Services that change together are taken back together: `group` in their specs."""

from __future__ import annotations

from collections.abc import Mapping

from specs.decisions import Decision, FallBack, Quarantine, RollBack
from specs.memory import ServiceMemory
from specs.reasons import Reason

Fall = RollBack | FallBack | Quarantine


def fallen_with(
    services: Mapping[str, ServiceMemory], decided: Mapping[str, tuple[Decision, ...]]
) -> Mapping[str, tuple[Decision, ...]]:
    """Return what becomes of the members of each group whose member was taken back in this look.

    A suspended member stays as it is: nothing of it moves.

    Members are those whose wanted revision came with the same commit. Whoever already runs it goes back to the
    revision before; one that has none before it stays, for there is nothing to go back to.
    """
    causes = {name: fall for name in sorted(decided) if (fall := _fall(services.get(name), decided[name])) is not None}
    falls: dict[str, tuple[Decision, ...]] = {}
    for name, fall in causes.items():
        for mate in _mates(services, services[name]):
            if mate.name not in causes:
                falls.setdefault(mate.name, _falls(mate, fall))
    return falls


def _fall(memory: ServiceMemory | None, decisions: tuple[Decision, ...]) -> Fall | None:
    """Return the decision that took back what the service's commit wants, None when there is none."""
    if memory is None or not memory.wanted.group:
        return None
    wanted = memory.wanted.revision.id
    for decision in decisions:
        is_undone = isinstance(decision, FallBack | Quarantine) or (
            isinstance(decision, RollBack) and decision.quarantine
        )
        if is_undone and isinstance(decision, Fall) and decision.revision == wanted:
            return decision
    return None


def _mates(services: Mapping[str, ServiceMemory], member: ServiceMemory) -> tuple[ServiceMemory, ...]:
    return tuple(
        other
        for _, other in sorted(services.items())
        if member.commit  # "" in memories of before groups: nobody knows what changed together.
        and other.name != member.name
        and (other.wanted.group, other.commit) == (member.wanted.group, member.commit)
        and not other.is_removed
        and not other.wanted.suspend
        and other.quarantined(other.wanted.revision.id) is None
    )


def _falls(memory: ServiceMemory, fall: Fall) -> tuple[Decision, ...]:
    wanted, reason = memory.wanted.revision.id, Reason.GROUP_ROLLED_BACK
    group = memory.wanted.group
    message = f"together with {fall.service} of the group {group}, whose {fall.revision} was taken back ({fall.reason})"
    if memory.candidate == wanted:
        return (RollBack(service=memory.name, revision=wanted, reason=reason, message=message, by=fall.by),)
    if memory.stable != wanted:
        return (Quarantine(service=memory.name, revision=wanted, reason=reason, message=message, by=fall.by),)
    kept = {record.id: record for record in memory.revisions}
    earlier = [kept[good] for good in memory.good if good != wanted and good in kept]
    if not earlier:
        return ()
    return (
        FallBack(
            service=memory.name,
            revision=wanted,
            to=earlier[-1],
            is_fast=True,
            reason=reason,
            message=message,
            by=fall.by,
        ),
    )
