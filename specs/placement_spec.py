"""`spec.placement` of a Service file: what users write, field by field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from specs.amount import Amount
from specs.placement import (
    MARKET_LABEL,
    ZONE_LABEL,
    Market,
    MarketSettings,
    Placement,
    ZoneFailure,
    ZoneSettings,
)
from specs.problems import Problem
from specs.strict import SHORT_NAME, CamelModel, CountOrShare
from specs.yaml_marks import Path

MAX_ZONES = 50
ZONE_NAME = r"^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$"
"""A zone's name becomes part of a Serve application's name, whose fields are separated by dots."""

PLACEMENT: Path = ("spec", "placement")
DEPLOYMENTS: Path = ("spec", "application", "deployments")


def _zones(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not re.fullmatch(ZONE_NAME, name):
            raise ValueError(
                f"{name[:80]!r} is not a zone that cells can be in: write the value of the nodes' label {ZONE_LABEL}, "
                "letters, digits, dashes and underscores"
            )
        if value.count(name) > 1:
            raise ValueError(f"{name!r} is listed twice: write each zone once")
    return value


def _is_spread(value: bool) -> bool:
    if not value:
        raise ValueError("replicas in zones are always spread: leave zones out and write a label_selector instead")
    return value


Zones = Annotated[tuple[str, ...], AfterValidator(_zones)]


class ZonesSpec(CamelModel):
    """How replicas are spread over availability zones."""

    refused: ClassVar[dict[str, str]] = {"max": "zones are limited by include and exclude: write those"}

    spread: Annotated[bool, AfterValidator(_is_spread)] = Field(
        default=True, description="Replicas are spread evenly; leave zones out to not do so."
    )
    min: int = Field(
        default=1,
        ge=1,
        le=MAX_ZONES,
        description="With fewer usable zones no rollout starts, and a running service is Degraded.",
    )
    include: Zones = Field(
        default=(), strict=False, max_length=MAX_ZONES, description="Only these zones. None listed: all that exist."
    )
    exclude: Zones = Field(default=(), strict=False, max_length=MAX_ZONES, description="Not these zones.")
    zone_failure: Literal["degrade", "tolerate"] = Field(
        default="degrade",
        description=(
            "tolerate: as many replicas more in every zone that losing one keeps the target. "
            "degrade: what is lost with a zone is built anew in the others."
        ),
    )

    def settings(self) -> ZoneSettings:
        """Return the settings that this stands for."""
        return ZoneSettings(
            min=self.min,
            include=tuple(sorted(self.include)),
            exclude=tuple(sorted(self.exclude)),
            zone_failure=ZoneFailure(self.zone_failure),
        )


def _share(value: Amount) -> Amount:
    if value.is_percent and value.value > 100:
        raise ValueError(f"{value} is more than everything: write at most 100%")
    return value


class MarketSpec(CamelModel):
    """Which replicas are on spot nodes, which may be taken away, and which on nodes that stay."""

    prefer: Literal["spot", "on-demand"] = Field(
        description=f"Where replicas beyond the base are, as long as there is room: by the nodes' label {MARKET_LABEL}."
    )
    on_demand_base: Annotated[CountOrShare, AfterValidator(_share)] = Field(
        default_factory=lambda: Amount(value=0),
        description="So many replicas of each deployment are on nodes that are not spot; a percentage is rounded up.",
    )

    def settings(self) -> MarketSettings:
        """Return the settings that this stands for."""
        return MarketSettings(prefer=Market(self.prefer), base=self.on_demand_base)


class PlacementSpec(CamelModel):
    """Where replicas are to be."""

    zones: ZonesSpec | None = Field(default=None, description="Spread over the nodes' availability zones.")
    market: MarketSpec | None = Field(default=None, description="Divided over spot nodes and those that stay.")
    policy: str = Field(
        default="spread",
        pattern=SHORT_NAME,
        description="Who decides how replicas are divided over them: spread (evenly), or a policy that is enabled.",
    )

    def settings(self) -> Placement:
        """Return the settings that this stands for."""
        return Placement(
            zones=self.zones.settings() if self.zones is not None else None,
            market=self.market.settings() if self.market is not None else None,
            policy=self.policy,
        )


def placement_problems(placement: Any, application: Any) -> Iterator[Problem]:
    """Yield what is wrong between `spec.placement` and the rest of a service."""
    zones = _get(placement, "zones")
    labels = {"zones": ZONE_LABEL, "market": MARKET_LABEL}
    pinned = {part: label for part, label in labels.items() if isinstance(_get(placement, part), dict)}
    if not pinned:
        if _get(placement, "policy") not in (None, "spread"):
            message = "a placement policy divides replicas over zones or markets: write zones: {}, or market, beside it"
            yield Problem(path=(*PLACEMENT, "policy"), message=message, at_key=True)
        return
    if isinstance(zones, dict):
        yield from _zone_problems(zones)
    listed = _get(application, "deployments")
    entries = listed if isinstance(listed, list) else []
    if not entries:
        message = "placement moves the replicas of listed deployments: list them under application.deployments"
        yield Problem(path=(*PLACEMENT, min(pinned, key=list(labels).index)), message=message, at_key=True)
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            yield from _pin_problems(entry, (*DEPLOYMENTS, index), pinned)


def _zone_problems(zones: dict[str, Any]) -> Iterator[Problem]:
    include, exclude = _get(zones, "include"), _get(zones, "exclude")
    if not isinstance(include, list):
        return
    left = [zone for zone in include if not (isinstance(exclude, list) and zone in exclude)]
    least = zones.get("min", 1)
    if include and not left:
        message = "every included zone is excluded, too, so nothing could ever run: leave out exclude"
        yield Problem(path=(*PLACEMENT, "zones", "exclude"), message=message, at_key=True)
    elif include and type(least) is int and least > len(left):
        message = f"min is {least} and only {len(left)} zone(s) are included: write a smaller min, or include more"
        yield Problem(path=(*PLACEMENT, "zones", "min"), message=message)


def _pin_problems(deployment: dict[str, Any], path: Path, pinned: Mapping[str, str]) -> Iterator[Problem]:
    """A selector is added to what a deployment asks for; Serve then takes nothing of that from the code."""
    options = deployment.get("ray_actor_options")
    if deployment.get("placement_group_bundles"):
        for number, selector in enumerate(_get(deployment, "placement_group_bundle_label_selector") or ()):
            yield from _conflicts(selector, (*path, "placement_group_bundle_label_selector", number), pinned)
    elif not isinstance(options, dict) or not options:
        message = (
            "placement pins replicas by a label in ray_actor_options, and Serve then takes nothing of them from the "
            "code: write here what a replica needs, such as ray_actor_options: {num_cpus: 1}"
        )
        yield Problem(path=path, message=message)
    yield from _conflicts(_get(options, "label_selector"), (*path, "ray_actor_options", "label_selector"), pinned)
    for number, fallback in enumerate(_get(options, "fallback_strategy") or ()):
        where = (*path, "ray_actor_options", "fallback_strategy", number, "label_selector")
        yield from _conflicts(_get(fallback, "label_selector"), where, pinned)


def _conflicts(selector: Any, path: Path, pinned: Mapping[str, str]) -> Iterator[Problem]:
    ways = {"zones": "write include under zones", "market": "write prefer and onDemandBase under market"}
    for part, label in pinned.items():
        if isinstance(selector, dict) and label in selector:
            message = f"placement.{part} chooses the {part}: leave out {label} here, or {ways[part]}"
            yield Problem(path=(*path, label), message=message, at_key=True)


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
