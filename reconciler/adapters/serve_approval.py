"""Nothing is written to a cluster before it was found to be one that Heliostat can keep."""

from __future__ import annotations

from typing import Protocol

import structlog

from reconciler.adapters.serve_check import Concern
from reconciler.errors import Stalled
from reconciler.ports import Serve, ServeSeen
from specs.effects import PutServeConfig

log = structlog.get_logger("heliostat.serve")


class CheckedServe(Serve, Protocol):
    """A Serve that can tell what is wrong with its cluster."""

    async def check(self) -> tuple[Concern, ...]:
        """Return what is wrong, worst first."""


class ApprovedServe:
    """ports.Serve that looks at its cluster before the first write, and refuses one that it must not touch.

    Reading is always allowed: status then says why nothing happens. A cluster that is refused is looked at
    again at the next attempt, so that mending it is enough.
    """

    def __init__(self, serve: CheckedServe) -> None:
        """`serve` does the work."""
        self._serve = serve
        self._is_approved = False

    async def read(self) -> ServeSeen:
        """Return all applications as Serve reports them now."""
        return await self._serve.read()

    async def put(self, change: PutServeConfig) -> None:
        """Change Serve's document. Raises Stalled on a cluster that is not ours to change."""
        await self._approve()
        await self._serve.put(change)

    async def scale(self, application: str, deployment: str, target: int) -> None:
        """Set one deployment's target count. Raises Stalled on a cluster that is not ours to change."""
        await self._approve()
        await self._serve.scale(application, deployment, target)

    async def _approve(self) -> None:
        if self._is_approved:
            return
        concerns = await self._serve.check()
        fatal = [concern for concern in concerns if concern.is_fatal]
        if fatal:
            raise Stalled(" ".join(f"{concern.text} {concern.mend}" for concern in fatal))
        for concern in concerns:
            log.warning(concern.text, subject=concern.subject, mend=concern.mend)
        self._is_approved = True
