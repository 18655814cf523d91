"""What the sample service executed, in its own words: one line for each POST."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "GREETER_GUEST_BOOK"
"""The environment variable by which the sample service knows where to write."""


@dataclass(frozen=True, kw_only=True)
class Executions:
    """`answered` POSTs; which of all that were sent were executed `twice`, and which answered ones never (`lost`)."""

    answered: int
    twice: tuple[str, ...]
    lost: tuple[str, ...]


def read_executions(book: Path, answered: Collection[str]) -> Executions:
    """Compare the book with the guests whose POSTs were answered. A guest is written down before the answer."""
    done = frozenset(answered)
    counts = Counter(book.read_text().splitlines() if book.exists() else ())
    return Executions(
        answered=len(done),
        twice=tuple(sorted(guest for guest, times in counts.items() if times > 1)),
        lost=tuple(sorted(done - counts.keys())),
    )
