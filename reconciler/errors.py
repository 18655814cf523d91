"""The two errors that cross a port. Anything else is a bug and ends the process."""

from __future__ import annotations

from datetime import timedelta


class PortError(Exception):
    """What an adapter reports instead of its vendor's exceptions."""

    def __init__(self, reason: str) -> None:
        """`reason` is a sentence for a person: what, where, and what to do."""
        super().__init__(reason)
        self.reason = reason


class Retry(PortError):
    """Try again after `after`: nothing is known to be wrong for good."""

    def __init__(self, reason: str, after: timedelta = timedelta(seconds=1)) -> None:
        """`reason` says what failed; `after` is how long to wait at least."""
        super().__init__(reason)
        self.after = after


class Stalled(PortError):
    """Trying again is no use: a person or a commit must act first."""
