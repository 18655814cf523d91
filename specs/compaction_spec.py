"""The compaction blocks of spec files: what users write, field by field."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from specs.compaction import CompactionSettings, NodePrice
from specs.strict import SHORT_NAME, CamelModel, Duration
from specs.window_spec import WindowSpec

MAX_PRICES = 200
MAX_WINDOWS = 100
LEAST_STALL = timedelta(seconds=30)


def _stall(value: timedelta) -> timedelta:
    if value < LEAST_STALL:
        raise ValueError("a replica needs longer than that to start: write at least 30s")
    return value


class CompactionSpec(CamelModel):
    """Whether a service takes part in compaction."""

    refused: ClassVar[dict[str, str]] = {"enabled": "write allow; enabled is for the ClusterPolicy"}

    allow: bool = Field(default=True, description="false: nodes that its replicas are on are never emptied.")


class NodePriceSpec(CamelModel):
    """What some nodes cost."""

    match: dict[str, str] = Field(
        min_length=1, description="Labels of the nodes, as in Ray's label selectors, such as ray.io/market-type: spot."
    )
    price: Annotated[float, Field(strict=False, gt=0, le=1e9)] = Field(description="The price of each of them.")


class PricesSpec(CamelModel):
    """What nodes cost, in any unit: a label of the node, else the first entry of the table that matches, else 1."""

    label: str | None = Field(
        default=None, min_length=1, max_length=253, description="A node label whose value is its price, a number."
    )
    table: tuple[NodePriceSpec, ...] = Field(
        default=(), strict=False, max_length=MAX_PRICES, description="Prices by labels; the first that matches counts."
    )


class ClusterCompactionSpec(CamelModel):
    """Whether and when nodes are emptied that the replicas do not need."""

    refused: ClassVar[dict[str, str]] = {"allow": "write enabled; allow is for a Service"}

    enabled: bool = Field(default=False, description="true: do it. false: `heliostat compaction` shows the plan.")
    schedule: Literal["always"] | None = Field(
        default=None, description="always: whenever rollouts may move. The same as leaving it out."
    )
    windows: tuple[WindowSpec, ...] = Field(
        default=(),
        strict=False,
        max_length=MAX_WINDOWS,
        description="When nodes may be emptied, within the hours in which rollouts may move; always when empty.",
    )
    min_saving: Annotated[float, Field(strict=False, ge=0, le=1e9)] = Field(
        default=1.0, description="Do nothing for less than this, in the unit of the prices (1: one node without one)."
    )
    settle: Duration = Field(
        default=timedelta(minutes=5),
        description="A service whose replicas changed more lately than this is not moved.",
    )
    stall_after: Annotated[Duration, AfterValidator(_stall)] = Field(
        default=timedelta(minutes=10), description="A node whose drain makes no progress for this long is given up."
    )
    max_nodes_at_once: int = Field(default=1, ge=1, le=100, description="Nodes that are emptied at the same time.")
    policy: str = Field(
        default="nodes",
        pattern=SHORT_NAME,
        description="Who has a say in which node is emptied next: nodes, or a policy that is enabled.",
    )
    prices: PricesSpec = Field(default=PricesSpec(), description="What nodes cost. Default: 1 each.")

    def settings(self) -> CompactionSettings:
        """Return it as the planner reads it."""
        return CompactionSettings(
            enabled=self.enabled,
            windows=tuple(window.window() for window in self.windows),
            min_saving=self.min_saving,
            settle=self.settle,
            stall_after=self.stall_after,
            max_nodes_at_once=self.max_nodes_at_once,
            policy=self.policy,
            price_label=self.prices.label or "",
            prices=tuple(NodePrice(match=entry.match, price=entry.price) for entry in self.prices.table),
        )
