"""What merging a change would do, as people, scripts and pull requests are told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from specs.desired import SpecError
from specs.predicted import Prediction
from specs.reasons import Reason

FORMAT = 1
"""Of the JSON form. It grows with what readers of an older one would misunderstand."""


class Action(StrEnum):
    """What happens to a service, in one word."""

    ADD = "add"
    ROLL = "roll"
    """A new revision takes the place of the old one."""
    SCALE = "scale"
    ROUTE = "route"
    CONFIGURE = "configure"
    """Settings that Serve applies in place, or that are Heliostat's own."""
    KEEP = "keep"
    """It stays as it is, because its file cannot be read."""
    DESTROY = "destroy"


class Consequence(StrEnum):
    """What the change of one field leads to."""

    REVISION = "revision"
    IN_PLACE = "in-place"
    SCALE = "scale"
    ROUTE = "route"
    SETTINGS = "settings"


class FileFate(StrEnum):
    """What happened to a file of a package."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """One field that differs. Values are JSON texts without secrets; None where the field is not written."""

    path: str
    consequence: Consequence
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """One file of a packaged folder that differs."""

    path: str
    fate: FileFate


@dataclass(frozen=True, kw_only=True)
class PlannedHold:
    """Why something does not happen, or not yet."""

    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True)
class PlannedService:
    """One service that a change touches."""

    name: str
    action: Action
    path: str
    line: int
    route: str
    revision_before: str = ""
    revision_after: str = ""
    fields: tuple[FieldChange, ...] = ()
    files: tuple[FileChange, ...] = ()
    """Files of its packages that differ."""
    holds: tuple[PlannedHold, ...] = ()
    """What keeps all of it from happening; empty when nothing does."""
    warnings: tuple[str, ...] = ()

    @property
    def is_held(self) -> bool:
        """Return whether nothing of it happens."""
        return bool(self.holds)


@dataclass(frozen=True, kw_only=True)
class PlannedCommit:
    """One end of a change."""

    sha: str
    subject: str
    committed_at: datetime


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The last line of a plan."""

    add: int
    change: int
    destroy: int
    hold: int

    def __str__(self) -> str:
        """Return the line."""
        return f"Plan: {self.add} to add, {self.change} to change, {self.destroy} to destroy, {self.hold} on hold"


@dataclass(frozen=True, kw_only=True)
class PlannedChange:
    """Everything that differs between two commits, or between what is live and a commit."""

    base: PlannedCommit
    head: PlannedCommit
    services: tuple[PlannedService, ...] = ()
    """Those that differ, by name."""
    unchanged: int = 0
    policy: tuple[FieldChange, ...] = ()
    """Fields of the ClusterPolicy that differ."""
    errors: tuple[SpecError, ...] = ()
    """What is wrong with the files of the head."""
    prediction: Prediction | None = None
    """How it would go on the live cluster; None when no daemon was asked."""

    @property
    def counts(self) -> Counts:
        """Return how many services are added, changed, removed and held."""
        moving = [service.action for service in self.services if not service.is_held]
        add, destroy = moving.count(Action.ADD), moving.count(Action.DESTROY)
        held = sum(service.is_held for service in self.services)
        return Counts(add=add, change=len(moving) - add - destroy, destroy=destroy, hold=held)

    @property
    def is_empty(self) -> bool:
        """Return whether merging it changes nothing."""
        return not self.services and not self.policy
