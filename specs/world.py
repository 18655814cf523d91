"""One immutable snapshot: everything that a decision may depend on, the time included."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from specs.commit_notes import CommitNote
from specs.desired import Desired
from specs.memory import Memory
from specs.observed import Observed


@dataclass(frozen=True, kw_only=True)
class World:
    """`desired` is None until a first commit was read; decisions then rest on Memory alone."""

    now: datetime
    desired: Desired | None
    desired_problem: str = ""
    """Why `desired` may be out of date (Git unreachable), in words for a person; "" when it is not."""
    notes: tuple[CommitNote, ...] = ()
    """What is to be said of the branch's newest commit; one that is refused is not the one in `desired`."""
    news: tuple[CommitNote, ...] = ()
    """Those of them that nobody was told yet."""
    observed: Observed
    memory: Memory
