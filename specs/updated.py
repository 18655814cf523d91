"""Copies that are made only where something is different, so that what is the same stays the same object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

Value = TypeVar("Value")


def updated(value: Value, **fields: Any) -> Value:
    """Return a frozen value with other fields: itself where none of them differs."""
    new = {name: wanted for name, wanted in fields.items() if not _is_same(getattr(value, name), wanted)}
    return replace(value, **new) if new else value  # type: ignore[type-var]


def _is_same(known: object, wanted: object) -> bool:
    return known is wanted or known == wanted
