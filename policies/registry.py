"""All policies by name: what a spec, or the cluster's settings, may ask for. Nothing is looked up anywhere else.

The tables below hold Heliostat's own. Other packages add theirs through the entry-point group `heliostat.policies`
under the same kinds, and the daemon's settings say which of those may be used (`outward.policies`). Theirs are never
called from here: they run in processes of their own, and what they said last is `outward.advice`
(`policies.counsel`). Whatever a policy asks for is a wish: weights are raised no further than ready replicas
carry, counts stay within the budget, gates, windows and vetoes come after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policies.analysis import judge
from policies.compaction.situation import Situation
from policies.compaction.steps import Plan, Step, Wait
from policies.compaction.steps import begin as next_step
from policies.steps import weight_at
from policies.view import ServiceView
from policies.zones import Ground, spread
from specs.analysis import AnalysisSettings, Judgement
from specs.compaction import CompactionMemory, CompactionSettings
from specs.desired import DesiredService
from specs.evidence import Window
from specs.memory import Failure
from specs.placement import Site
from specs.wishes import GoBack, PolicyKind, Stand, policy_id
from specs.world import World

RolloutPolicy = Callable[[ServiceView], int]
"""The candidate's share at the present step, in basis points."""

AnalysisPolicy = Callable[[Sequence[Window], AnalysisSettings], Judgement]
"""What the windows of requests say of a candidate."""

RollbackPolicy = Callable[[ServiceView, Failure], GoBack | Stand]
"""What a failure of the candidate leads to."""


CompactionPolicy = Callable[[World, CompactionSettings, CompactionMemory, Situation, Plan], Step | Wait]
"""Which node is emptied next, by a plan of what could go."""


PlacementPolicy = Callable[[int, Sequence[Site], Ground], Mapping[Site, int]]
"""How many of so many replicas are to be at each site."""


def by_steps(view: ServiceView) -> int:
    """Go step by step, as the spec lists them."""
    rollout = view.memory.rollout
    return weight_at(view.spec.rollout.steps, rollout.step if rollout is not None else 0)


def at_failures(view: ServiceView, failure: Failure) -> GoBack | Stand:
    """Take a failed candidate back, unless `autoRollback` is off."""
    return GoBack(message=failure.message) if view.spec.rollout.auto_rollback else Stand(message="autoRollback is off")


ROLLOUT: Mapping[str, RolloutPolicy] = {"steps": by_steps}
ANALYSIS: Mapping[str, AnalysisPolicy] = {"sequential": judge}
ROLLBACK: Mapping[str, RollbackPolicy] = {"failures": at_failures}
PLACEMENT: Mapping[str, PlacementPolicy] = {"spread": spread}
COMPACTION: Mapping[str, CompactionPolicy] = {"nodes": next_step}

BUILT_IN: Mapping[PolicyKind, Mapping[str, Callable[..., Any]]] = {
    PolicyKind.ROLLOUT: ROLLOUT,
    PolicyKind.ANALYSIS: ANALYSIS,
    PolicyKind.ROLLBACK: ROLLBACK,
    PolicyKind.PLACEMENT: PLACEMENT,
    PolicyKind.COMPACTION: COMPACTION,
}


def named(service: DesiredService) -> Mapping[PolicyKind, str]:
    """Return the policies that a service's spec names, or that it has by default."""
    return {
        PolicyKind.ROLLOUT: service.rollout.policy,
        PolicyKind.ANALYSIS: service.analysis_policy,
        PolicyKind.ROLLBACK: service.rollout.rollback_policy,
        PolicyKind.PLACEMENT: service.placement.policy,
    }


def others(service: DesiredService) -> Mapping[PolicyKind, str]:
    """Return the policies of other packages that a service's spec names."""
    return {kind: name for kind, name in named(service).items() if name not in BUILT_IN[kind]}


FIELDS = {
    PolicyKind.ROLLOUT: "rollout.policy",
    PolicyKind.ANALYSIS: "analysis.policy",
    PolicyKind.ROLLBACK: "rollout.rollbackPolicy",
    PolicyKind.PLACEMENT: "placement.policy",
    PolicyKind.COMPACTION: "compaction.policy",
}
"""Where a spec, or the ClusterPolicy, names a policy."""


def unknown_policies(service: DesiredService, enabled: frozenset[str]) -> tuple[str, ...]:
    """Return what is wrong with each policy that a spec names and nobody may use; what could be named instead."""
    return tuple(
        unknown_policy(kind, name, enabled)
        for kind, name in others(service).items()
        if policy_id(kind, name) not in enabled
    )


def unknown_policy(kind: PolicyKind, name: str, enabled: frozenset[str]) -> str:
    """Return in words that a policy is named and nobody may use it, and what could be named instead."""
    return (
        f'{FIELDS[kind]} is "{name}", which is not enabled: there are {", ".join(choices(kind, enabled))}. The '
        f"daemon's settings enable those of installed packages, such as --policy {policy_id(kind, name)}"
    )


def choices(kind: PolicyKind, enabled: frozenset[str]) -> tuple[str, ...]:
    """Return the names of a kind that a spec may use."""
    prefix = policy_id(kind, "")
    return (*BUILT_IN[kind], *sorted(policy.removeprefix(prefix) for policy in enabled if policy.startswith(prefix)))
