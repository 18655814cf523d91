"""`spec.placement` of a Service file: what users write, field by field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from specs.placement import ZONE_LABEL, Placement, ZoneFailure, ZoneSettings
from specs.problems import Problem
from specs.strict import CamelModel
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


class PlacementSpec(CamelModel):
    """Where replicas are to be."""

    zones: ZonesSpec | None = Field(default=None, description="Spread over the nodes' availability zones.")

    def settings(self) -> Placement:
        """Return the settings that this stands for."""
        return Placement(zones=self.zones.settings() if self.zones is not None else None)


def placement_problems(placement: Any, application: Any) -> Iterator[Problem]:
    """Yield what is wrong between `spec.placement` and the rest of a service."""
    zones = _get(placement, "zones")
    if not isinstance(zones, dict):
        return
    yield from _zone_problems(zones)
    listed = _get(application, "deployments")
    entries = listed if isinstance(listed, list) else []
    if not entries:
        message = "placement moves the replicas of listed deployments: list them under application.deployments"
        yield Problem(path=(*PLACEMENT, "zones"), message=message, at_key=True)
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            yield from _pin_problems(entry, (*DEPLOYMENTS, index))


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


def _pin_problems(deployment: dict[str, Any], path: Path) -> Iterator[Problem]:
    """A selector is added to what a deployment asks for; Serve then takes nothing of that from the code."""
    options = deployment.get("ray_actor_options")
    if deployment.get("placement_group_bundles"):
        for number, selector in enumerate(_get(deployment, "placement_group_bundle_label_selector") or ()):
            yield from _conflicts(selector, (*path, "placement_group_bundle_label_selector", number))
    elif not isinstance(options, dict) or not options:
        message = (
            "placement pins replicas by a label in ray_actor_options, and Serve then takes nothing of them from the "
            "code: write here what a replica needs, such as ray_actor_options: {num_cpus: 1}"
        )
        yield Problem(path=path, message=message)
    yield from _conflicts(_get(options, "label_selector"), (*path, "ray_actor_options", "label_selector"))
    for number, fallback in enumerate(_get(options, "fallback_strategy") or ()):
        where = (*path, "ray_actor_options", "fallback_strategy", number, "label_selector")
        yield from _conflicts(_get(fallback, "label_selector"), where)


def _conflicts(selector: Any, path: Path) -> Iterator[Problem]:
    if isinstance(selector, dict) and ZONE_LABEL in selector:
        message = f"placement.zones chooses the zones: leave out {ZONE_LABEL} here, or write include under zones"
        yield Problem(path=(*path, ZONE_LABEL), message=message, at_key=True)


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
