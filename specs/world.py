"""One immutable snapshot: everything that a decision may depend on, the time included."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from specs.commit_notes import CommitNote
from specs.desired import Desired
from specs.memory import Memory
from specs.observed import Observed
from specs.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class World(Snapshot):
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
    recall: MutableMapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """What views of an earlier world, by service, have worked out (`policies.recall`), kept by whoever looks again and
    again. It belongs to no snapshot: with it or without it all answers are the same, and it is sent nowhere."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the snapshot alone."""
        return {**super().__getstate__(), "recall": None}
