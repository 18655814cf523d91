"""Values that go to other processes, and keep what was worked out of them to themselves."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


class Snapshot:
    """A frozen value that is pickled with its fields alone.

    What it was asked and remembers (`cached_property`, `policies.once`) can be many times as long as itself, and is
    worked out anew where it is asked again.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields."""
        return {field.name: self.__dict__[field.name] for field in fields(self)}  # type: ignore[arg-type]
