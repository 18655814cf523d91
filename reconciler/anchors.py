"""Holds on to the commits that code was read from, so that it can be packaged again whatever becomes of the branch."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from reconciler.errors import PortError
from reconciler.planning.anchoring import anchored
from reconciler.ports import Ports
from specs.desired import Desired
from specs.memory import Memory

log = structlog.get_logger("heliostat")

LOST_AGAIN = timedelta(minutes=1)
"""How often commits that are gone are asked for again: somebody may push them, and each asks the repository's host."""


class Anchors:
    """The commits that the source keeps, and the newest one's services as they are remembered by them."""

    def __init__(self, ports: Ports) -> None:
        """Nothing is kept before the first `hold`."""
        self._source = ports.source
        self._clock = ports.clock
        self._asked: frozenset[str] = frozenset()
        self._kept: frozenset[str] = frozenset()
        self._asked_at: datetime | None = None
        self._read: Desired | None = None
        self._anchored: Desired | None = None

    async def hold(self, desired: Desired, memory: Memory) -> Desired:
        """Keep what remembered revisions were packaged from; return the services with unchanged code named by it.

        A commit is looked at once: what it adopts is remembered by the same names, and kept from then on.
        """
        await self._keep(_commits(memory) | {desired.commit.sha})
        if self._anchored is None or desired is not self._read:
            self._read, self._anchored = desired, anchored(desired, memory.services, self._kept)
        return self._anchored

    async def _keep(self, commits: frozenset[str]) -> None:
        if commits == self._asked and not self._is_due():
            return
        try:
            lost = await self._source.keep(commits)
        except PortError as error:
            log.warning("commits not kept", reason=error.reason)
            return
        if lost:
            names = ", ".join(sorted(commit[:12] for commit in lost))
            log.warning("commits are gone from the clone and the repository: push them again", commits=names)
        self._asked, self._kept, self._asked_at = commits, commits - lost, self._clock.now()

    def _is_due(self) -> bool:
        return self._kept != self._asked and (
            self._asked_at is None or self._clock.now() - self._asked_at >= LOST_AGAIN
        )


def _commits(memory: Memory) -> frozenset[str]:
    return frozenset(
        package.commit
        for service in memory.services.values()
        for record in (*service.revisions, service.wanted.revision)
        for package in record.packages
    )
