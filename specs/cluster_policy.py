"""The ClusterPolicy of a spec file: what holds for all services of a cluster. At most one per repository."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from specs.amount import Amount
from specs.desired import ClusterSettings, PruneSettings
from specs.service import Metadata
from specs.strict import MAX_COUNT, CamelModel, CountOrShare
from specs.windows import PATTERN, Window, read_window, read_zone

WINDOW_TEXT: dict[str, JsonValue] = {"anyOf": [{"type": "string", "pattern": PATTERN}, {"type": "null"}]}
MAX_WINDOWS = 100


def _zone(value: str) -> str:
    read_zone(value)
    return value


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


class WindowSpec(CamelModel):
    """Hours in which rollouts may move (`allow`) or may not (`deny`): exactly one of the two."""

    refused: ClassVar[dict[str, str]] = {"timeZone": "write timezone"}

    allow: str | None = Field(
        default=None,
        description="Days and hours in which rollouts start and go on, such as Mon-Fri 09:00-17:00.",
        json_schema_extra=WINDOW_TEXT,
    )
    deny: str | None = Field(
        default=None,
        description="Days and hours in which none does. It wins over allow.",
        json_schema_extra=WINDOW_TEXT,
    )
    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="The time zone whose clocks count, such as Europe/Berlin."
    )

    @model_validator(mode="after")
    def _is_one_window(self) -> WindowSpec:
        self.window()
        return self

    def window(self) -> Window:
        """Return the window. Raises ValueError when it is not one."""
        text = self.allow if self.deny is None else self.deny
        if text is None or None not in (self.allow, self.deny):
            raise ValueError("a window is exactly one of allow and deny: write two windows, or one of them")
        return read_window(text, is_allowed=self.deny is None, zone=self.timezone)


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
        )
