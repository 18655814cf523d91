"""What is to be said about a commit of the watched branch, apart from what it wants."""

from __future__ import annotations

from dataclasses import dataclass

from specs.reasons import Reason


@dataclass(frozen=True, kw_only=True)
class CommitNote:
    """Something that is wrong, or at least remarkable, with a commit. `message` names it, and the key if any."""

    commit: str
    reason: Reason
    message: str
    is_refused: bool
    """Whether the commit before it is held to on that account."""
