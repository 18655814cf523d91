"""The ground that all spec models stand on: unknown fields are errors, nothing is converted silently."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

from specs.amount import Amount
from specs.durations import PATTERN, parse_duration

SHORT_NAME = r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$"
"""Of policies, and of what is told by its name in verdicts."""


class StrictModel(BaseModel):
    """A mapping in a spec file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    refused: ClassVar[dict[str, str]] = {}
    """Fields that people expect here, and what to write instead of them."""


class CamelModel(StrictModel):
    """A mapping with Kubernetes-style field names."""

    model_config = ConfigDict(alias_generator=to_camel)


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("a duration is expected: write a text such as 30s, 5m or 1h30m")
    return parse_duration(str(value))


def _amount(value: Any) -> Amount:
    if isinstance(value, Amount):
        return value
    hint = "write a count such as 1, or a share such as 25%"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"a count or a percentage is expected: {hint}")
    if isinstance(value, int):
        if not 0 <= value <= MAX_COUNT:
            raise ValueError(f"{value} is not a count between 0 and {MAX_COUNT}: {hint}")
        return Amount(value=value)
    number = value.removesuffix("%")
    if not value.endswith("%") or not number.isdecimal() or not number.isascii() or len(number) > 4:
        raise ValueError(f"{value!r} is neither a count nor a percentage: {hint}, without spaces or fractions")
    return Amount(value=int(number), is_percent=True)


def _written_amount(amount: Amount) -> str | int:
    return str(amount) if amount.is_percent else amount.value


MAX_COUNT = 100_000
"""More replicas than any cluster holds: a larger number is a typing error."""

Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": PATTERN}, {"const": 0}], "examples": ["30s", "5m", "1h30m"]}
    ),
]

CountOrShare = Annotated[
    Amount,
    BeforeValidator(_amount),
    PlainSerializer(_written_amount),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_COUNT},
                {"type": "string", "pattern": "^[0-9]{1,4}%$"},
            ],
            "examples": [1, "25%"],
        }
    ),
]
