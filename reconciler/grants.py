"""What a bearer of an API token may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a token opens; each role has the ones before it."""

    READ = "read"
    """Status, events, history, nodes, routes, metrics and the page, where these are not open to everybody."""
    OPERATE = "operate"
    """Everything: promote, pause, resume, abort, retry, rollback."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Whose token it is, and what it opens."""

    name: str
    role: Role
