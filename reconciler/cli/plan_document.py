"""A plan as one JSON document."""

from __future__ import annotations

from typing import Any

from reconciler.api.documents import document
from specs.planned import FORMAT, PlannedChange


def plan_document(change: PlannedChange) -> dict[str, Any]:
    """Return the JSON form: the same change gives the same document."""
    plain = document(change)
    assert isinstance(plain, dict)
    return {"kind": "Plan", "version": FORMAT, "counts": document(change.counts), **plain}
