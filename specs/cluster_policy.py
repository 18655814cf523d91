"""The ClusterPolicy of a spec file: what holds for all services of a cluster. At most one per repository."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from specs.amount import Amount
from specs.compaction_spec import ClusterCompactionSpec
from specs.desired import ClusterSettings, PruneSettings
from specs.service import Metadata
from specs.strict import MAX_COUNT, CamelModel, CountOrShare
from specs.window_spec import WindowSpec

MAX_WINDOWS = 100


def _fraction(value: Amount) -> Amount:
    if not value.is_percent or value.value > 100:
        raise ValueError(f"{value} is not a share of the services: write a percentage up to 100%, such as 20%")
    return value


class PruneSpec(CamelModel):
    """Whether services that left the repository are removed from the cluster."""

    enabled: bool = Field(default=False, description="Removal is opt-in.")
    max_services: int = Field(
        default=1, ge=1, le=MAX_COUNT, description="A commit that would remove more services is held."
    )
    max_fraction: Annotated[CountOrShare, AfterValidator(_fraction)] = Field(
        default=Amount(value=20, is_percent=True),
        description="A commit that would remove a larger share of the services is held.",
        json_schema_extra={"anyOf": [{"type": "string", "pattern": "^([0-9]{1,2}|100)%$"}], "examples": ["20%"]},
    )


class SelfHealSpec(CamelModel):
    """Whether what others changed or removed is put back."""

    enabled: bool = Field(default=True, description="false: report drift only.")


class BudgetSpec(CamelModel):
    """How much may move at once."""

    max_services_moving: int = Field(
        default=5, ge=1, le=MAX_COUNT, description="Rollouts under way at the same time; others wait."
    )
    max_surge_replicas: int | None = Field(
        default=None,
        ge=1,
        le=MAX_COUNT,
        description="Replicas above target at the same time, over all services; others wait. Default: no limit.",
    )


class ClusterPolicySpec(CamelModel):
    """What holds for all services."""

    prune: PruneSpec = Field(default=PruneSpec(), description="Removal of services that left the repository.")
    self_heal: SelfHealSpec = Field(default=SelfHealSpec(), description="Putting back what others changed.")
    windows: tuple[WindowSpec, ...] = Field(
        default=(),
        strict=False,
        max_length=MAX_WINDOWS,
        description="When rollouts may start and go on; always when empty. Ways back and repairs are never held.",
    )
    budget: BudgetSpec = Field(default=BudgetSpec(), description="Limits on what moves at once.")
    compaction: ClusterCompactionSpec = Field(
        default=ClusterCompactionSpec(), description="Emptying nodes that the replicas do not need."
    )


class ClusterPolicy(CamelModel):
    """What holds for all services of the cluster."""

    refused: ClassVar[dict[str, str]] = {"status": "status is reported, never written: leave it out"}

    api_version: Literal["heliostat.dev/v1alpha1"] = Field(description="The version of this schema.")
    kind: Literal["ClusterPolicy"]
    metadata: Metadata
    spec: ClusterPolicySpec = Field(default=ClusterPolicySpec(), description="What holds for all services.")

    def settings(self) -> ClusterSettings:
        """Return the policy as the planner reads it."""
        prune = self.spec.prune
        return ClusterSettings(
            prune=PruneSettings(
                enabled=prune.enabled, max_services=prune.max_services, max_fraction=prune.max_fraction
            ),
            self_heal=self.spec.self_heal.enabled,
            max_services_moving=self.spec.budget.max_services_moving,
            max_surge_replicas=self.spec.budget.max_surge_replicas,
            windows=tuple(window.window() for window in self.spec.windows),
            compaction=self.spec.compaction.settings(),
        )
