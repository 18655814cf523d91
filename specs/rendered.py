"""A document of a spec file as plain values again, after everything that was merged into it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from specs.durations import format_duration


def rendered(model: BaseModel, *, with_defaults: bool) -> dict[str, Any]:
    """Return the JSON value of a document, in the words of spec files; reading it again gives the same model."""
    plain: dict[str, Any] = _plain(model.model_dump(by_alias=True, exclude_unset=not with_defaults))
    return plain


def _plain(value: Any) -> Any:
    match value:
        case timedelta():
            return format_duration(value)
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
