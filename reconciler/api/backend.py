"""What the HTTP side needs of the daemon. The loop implements it; tests have one in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from reconciler.planner import Proposal
from specs.commands import Command
from specs.memory import Event, HistoryEntry
from specs.observed import Node
from specs.planned import PlannedChange
from specs.routes import RouteTable
from specs.seats import Seat
from specs.status import ClusterStatus


class Refused(Exception):
    """A command that cannot be done now; the text says why, and what would have to be different."""


class UnknownServiceError(Exception):
    """No service of that name is known, neither in Git nor in memory; the text is the name."""


class Backend(Protocol):
    """Reads answer from the last tick at once; only `command` changes anything."""

    def status(self) -> ClusterStatus:
        """Return the report of the last tick."""

    def status_in_full(self, service: str | None = None) -> ClusterStatus:
        """Return it with what is reckoned for readers only (the bounds of each effect), of one service or of all."""

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes as last seen."""

    def seats(self) -> tuple[Seat, ...]:
        """Return which replica was last seen where."""

    def routes(self) -> tuple[str, RouteTable]:
        """Return the route table as last commanded and a tag that changes whenever the table does."""

    async def wait_routes(self, etag: str, timeout: timedelta) -> None:
        """Return when the table's tag is not `etag` any more, or after `timeout`."""

    async def events(self, *, service: str | None = None, since: int = 0, limit: int = 200) -> tuple[Event, ...]:
        """Return events with an id above `since`, oldest first; with `since=0` the newest `limit`."""

    async def wait_events(self, since: int, timeout: timedelta) -> None:
        """Return when an event with an id above `since` exists, or after `timeout`."""

    async def history(self, service: str) -> tuple[HistoryEntry, ...]:
        """Return a service's ended rollouts, newest first."""

    async def command(self, command: Command) -> int:
        """Accept a command and return the id of its event. Raises `Refused` or `UnknownServiceError`."""

    async def plan(self, proposal: Proposal | None) -> PlannedChange:
        """Return what a proposal would do; without one, what is about to be done anyway. Raises `Refused`."""

    async def apply(self, base: str, commit: str, live: str) -> None:
        """Follow `commit` of a plan made for `base` and the state `live`. Raises `Refused`, a stale plan included."""

    async def release(self) -> str:
        """Follow the branch again; return the commit that was followed instead. Raises `Refused`."""

    def is_ready(self) -> bool:
        """Return whether a first commit was read and a first observation made."""

    def metrics(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
