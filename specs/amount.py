"""A count of replicas given as a number or as a share of a total."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Amount:
    """`value` replicas, or `value` percent of the target when `is_percent`."""

    value: int
    is_percent: bool = False

    def round_up(self, total: int) -> int:
        """Return the count for `total` replicas, a percentage rounded up."""
        return -(-self.value * total // 100) if self.is_percent else self.value

    def round_down(self, total: int) -> int:
        """Return the count for `total` replicas, a percentage rounded down."""
        return self.value * total // 100 if self.is_percent else self.value

    def __str__(self) -> str:
        """Return the text form used in specs, such as `25%` or `1`."""
        return f"{self.value}%" if self.is_percent else str(self.value)
