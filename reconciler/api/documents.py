"""Frozen values as the JSON of the HTTP API: camelCase fields, times in UTC with a `Z`, durations in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from specs.observed import Node
from specs.planned import FORMAT, PlannedChange


def document(value: object) -> object:
    """Return a value's JSON form. A mapping's keys are data (revisions, names) and stay as they are."""
    match value:
        case datetime():
            return timestamp(value)
        case timedelta():
            return value.total_seconds()
        case float():
            return int(value) if value.is_integer() else value
        case Mapping():
            return {str(key): document(item) for key, item in value.items()}
        case frozenset():
            return sorted(str(item) for item in value)
        case tuple() | list():
            return [document(item) for item in value]
        case _ if is_dataclass(value):
            return {camel_case(field.name): document(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value


def plan_document(change: PlannedChange) -> dict[str, Any]:
    """Return a plan's JSON form: the same change gives the same document."""
    plain = document(change)
    assert isinstance(plain, dict)
    if change.prediction is None:
        del plain["prediction"]
    return {"kind": "Plan", "version": FORMAT, "counts": document(change.counts), **plain}


def node_document(node: Node) -> object:
    """Return a node with its zone beside its labels, where people look for it."""
    plain = document(node)
    assert isinstance(plain, dict)
    return plain | {"zone": node.zone}


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 in UTC; milliseconds only where there are any."""
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds" if utc.microsecond >= 1000 else "seconds").replace("+00:00", "Z")


def camel_case(name: str) -> str:
    """Return `observedAt` for `observed_at`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
