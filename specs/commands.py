"""What an operator asks for: the verbs of the command line and of the HTTP API."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verb(StrEnum):
    """The acting verbs, as written in URLs and on the command line."""

    PROMOTE = "promote"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    RETRY = "retry"
    ROLLBACK = "rollback"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One request of a person (or of a script in their name).

    `why` is their reason in free words; `to` is the revision of a `rollback` (None: the last good one);
    `full` lets a `promote` skip all the steps that are left.
    """

    verb: Verb
    service: str
    by: str = "operator"
    why: str = ""
    to: str | None = None
    full: bool = False

    def __str__(self) -> str:
        """Return the command as a person would type it, with who and why."""
        words = [self.verb.value, *(["--full"] if self.full else []), *(["--to", self.to] if self.to else [])]
        return f"{' '.join(words)} by {self.by}{': ' + self.why if self.why else ''}"
