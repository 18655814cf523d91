"""One window of a spec file: what users write, field by field."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, JsonValue, model_validator

from specs.strict import CamelModel
from specs.windows import PATTERN, Window, read_window, read_zone

WINDOW_TEXT: dict[str, JsonValue] = {"anyOf": [{"type": "string", "pattern": PATTERN}, {"type": "null"}]}


def _zone(value: str) -> str:
    read_zone(value)
    return value


def _hours(value: str) -> str:
    # Read by itself, so that it is told beside a wrong zone, and at its own place.
    read_window(value, is_allowed=True, zone="UTC")
    return value


Hours = Annotated[str, AfterValidator(_hours)]


class WindowSpec(CamelModel):
    """Hours in which rollouts may move (`allow`) or may not (`deny`): exactly one of the two."""

    refused: ClassVar[dict[str, str]] = {"timeZone": "write timezone"}

    allow: Hours | None = Field(
        default=None,
        description="Days and hours in which rollouts start and go on, such as Mon-Fri 09:00-17:00.",
        json_schema_extra=WINDOW_TEXT,
    )
    deny: Hours | None = Field(
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
