"""What policies of other packages say, and what is left of it: a fresh wish about this candidate, or a reason.

A policy that fails, or says nothing, changes nothing: a rollout stands where it is, an analysis concludes nothing,
a candidate that failed is taken back as if there were no other rollback policy, and replicas stay where they are
(`policies.placing`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from policies.recall import recalled
from policies.registry import others, unknown_policies
from policies.view import ServiceView
from specs.decisions import Hold, NoteTrouble
from specs.desired import Delegated
from specs.memory import ServiceMemory
from specs.reasons import Reason
from specs.wishes import Aim, GoBack, PolicyKind, Stand, Wish, policy_id

ASKED_AGAIN = timedelta(seconds=1)
"""Advice on a rollout is not asked for more often: nothing that a policy looks at changes faster."""

PLACEMENT_ASKED_AGAIN = timedelta(seconds=15)
"""Where replicas are to be is asked of all services, always, and is followed slowly."""

FRESH = timedelta(seconds=15)
"""Advice is about a world that has moved on since; older than this it is about another one."""

PLACEMENT_FRESH = timedelta(minutes=1)

TOLD_AGAIN = timedelta(minutes=5)
"""A policy that fails at each look, or at each other, must not fill the log of events."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why there is no wish to go by."""

    reason: Reason
    message: str


def advised(view: ServiceView, kind: PolicyKind) -> Wish | Trouble:
    """Return what the policy of another package that the spec names wants now."""
    policy = policy_id(kind, others(view.spec)[kind])
    outward = view.observed.outward
    if policy not in outward.policies:
        return Trouble(reason=Reason.POLICY_UNKNOWN, message="; ".join(unknown_policies(view.spec, outward.policies)))
    advice = outward.advice_of(policy, view.name)
    if advice is None or advice.revision != subject(view, kind):
        return Stand(message=f"{policy} is being asked")
    if advice.problem:
        return Trouble(reason=Reason.POLICY_FAILED, message=f"policy {policy} fails: {advice.problem}")
    age = view.now - advice.at
    fresh = PLACEMENT_FRESH if kind is PolicyKind.PLACEMENT else FRESH
    if age > fresh or advice.wish is None:
        text = f"policy {policy} has said nothing new for {age.total_seconds():.0f} s"
        return Trouble(reason=Reason.POLICY_FAILED, message=text)
    return advice.wish


def subject(view: ServiceView, kind: PolicyKind) -> str:
    """Return the revision that a policy is asked about: the candidate, or "" where it is about none."""
    return "" if kind is PolicyKind.PLACEMENT else view.memory.candidate or ""


def asked_again(kind: PolicyKind) -> timedelta:
    """Return how long after one question the next one is asked."""
    return PLACEMENT_ASKED_AGAIN if kind is PolicyKind.PLACEMENT else ASKED_AGAIN


def is_delegated(view: ServiceView) -> bool:
    """Return whether another package's policy decides the candidate's weight at the present step."""
    rollout, steps = view.memory.rollout, view.spec.rollout.steps
    if rollout is None or rollout.is_fast or view.memory.stable is None or view.memory.candidate is None:
        return False
    return rollout.step < len(steps) and isinstance(steps[rollout.step], Delegated)


def aim(view: ServiceView) -> Aim | None:
    """Return what the rollout policy aims at, or None: then everything stays where it is."""
    wish = advised(view, PolicyKind.ROLLOUT) if is_delegated(view) else None
    return wish if isinstance(wish, Aim) else None


@recalled
def stands(view: ServiceView) -> Hold | None:
    """Return why a rollout that is left to another package's policy does not move, or None when it may."""
    if not is_delegated(view):
        return None
    wish = advised(view, PolicyKind.ROLLOUT)
    match wish:
        case Trouble(reason=reason, message=message):
            text = f"{message}; it stands where it is, promote goes on without the policy"
            return Hold(service=view.name, reason=reason, message=text)
        case Stand(message=message):
            said = message or "it gave no reason"
            return Hold(service=view.name, reason=Reason.POLICY_HOLDS, message=f"{_policy(view)}: {said}")
        case _:
            return None


def _policy(view: ServiceView) -> str:
    return f"policy {view.spec.rollout.policy}"


def wants_back(view: ServiceView) -> GoBack | None:
    """Return the wish of another package's rollback policy to take the candidate back."""
    if PolicyKind.ROLLBACK not in others(view.spec) or view.memory.candidate is None:
        return None
    wish = advised(view, PolicyKind.ROLLBACK)
    return wish if isinstance(wish, GoBack) else None


def keeps(view: ServiceView) -> Stand | None:
    """Return the wish of another package's rollback policy to leave a failed candidate where it is."""
    if PolicyKind.ROLLBACK not in others(view.spec):
        return None
    wish = advised(view, PolicyKind.ROLLBACK)
    return wish if isinstance(wish, Stand) else None


@recalled
def consulted(view: ServiceView) -> tuple[str, ...]:
    """Return the policies of other packages to ask now; on rollouts nobody is asked about what does not move."""
    asked = {policy_id(kind, name): kind for kind, name in others(view.spec).items()}
    due = (policy for policy in consultable(view.memory) if policy in asked and _is_asked(view, asked[policy]))
    return tuple(policy for policy in due if policy in view.observed.outward.policies)


def consultable(memory: ServiceMemory) -> tuple[str, ...]:
    """Return the policies of other packages that could be asked about a service; what others said is to be forgotten.

    Else the next attempt of the same revision would go by what was said of the last one.
    """
    if memory.is_removed or memory.wanted.suspend:
        return ()
    is_moving = memory.candidate is not None and memory.rollout is not None
    named = others(memory.wanted).items()
    return tuple(policy_id(kind, name) for kind, name in named if is_moving or kind is PolicyKind.PLACEMENT)


def _is_asked(view: ServiceView, kind: PolicyKind) -> bool:
    if kind is PolicyKind.PLACEMENT:
        return True
    match kind:
        case PolicyKind.ROLLOUT:
            return is_delegated(view)
        case PolicyKind.ANALYSIS:
            return view.memory.comparison is not None
        case _:
            return bool(view.cells_of(view.memory.candidate))


@recalled
def troubles(view: ServiceView) -> tuple[NoteTrouble, ...]:
    """Return what fails of the policies of other packages that are asked, unless that was told a moment ago."""
    return tuple(
        NoteTrouble(service=view.name, policy=policy, problem=problem)
        for policy, problem in _failing(view)
        if _is_news(view, policy)
    )


def _failing(view: ServiceView) -> Iterable[tuple[str, str]]:
    asked = set(consulted(view))
    for kind, name in others(view.spec).items():
        policy = policy_id(kind, name)
        if policy in asked and isinstance(found := advised(view, kind), Trouble):
            yield policy, found.message


def _is_news(view: ServiceView, policy: str) -> bool:
    told = view.memory.troubles.get(policy)
    return told is None or view.now - told >= TOLD_AGAIN
