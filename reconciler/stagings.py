"""Looking after the programs that bring weights to nodes: started, followed, and ended when nobody wants them.

What the cluster knows is the state: a daemon that is killed leaves jobs behind whose names the next one knows, too.
"""

from __future__ import annotations

import json
from collections.abc import Set
from datetime import datetime, timedelta

from reconciler.errors import Retry, Stalled
from reconciler.ports import Job, JobOrder, Jobs
from specs.effects import TendStaging
from specs.staging import Progress, Said, StagingJob, StagingSeen, StagingState, command_line, read_output

WITHIN = timedelta(hours=1)
"""A staging that takes longer ends by itself: what is left of it, replicas have fetched long ago."""


class Stagings:
    """What was last seen of each staging, and which were the only ones of ours at the last sweep."""

    def __init__(self, jobs: Jobs) -> None:
        """Nothing was looked at yet."""
        self._jobs = jobs
        self._seen: dict[str, StagingSeen] = {}
        self.swept: frozenset[str] | None = None

    def seen(self) -> tuple[StagingSeen, ...]:
        """Return what was last seen."""
        return tuple(self._seen.values())

    def keep(self, names: Set[str]) -> None:
        """Forget what was seen of everything else."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}

    async def tend(self, wanted: TendStaging) -> None:
        """End what is not wanted, start what is, and look at it. What cannot be done now is done at the next time."""
        names = frozenset(job.name for job in wanted.jobs)
        if self.swept != names:
            await self._sweep(names)
        for job in wanted.jobs:
            self._seen[job.name] = await self._tended(job, wanted.asked_at)

    async def _sweep(self, names: frozenset[str]) -> None:
        try:
            for job in await self._jobs.own():
                if not job.ended and job.id not in names:
                    await self._jobs.stop(job.id)
        except Retry:
            return
        except Stalled:  # A cluster without jobs, or one that forbids them: asking it again each second helps nobody.
            pass
        self.swept = names

    async def _tended(self, job: StagingJob, at: datetime) -> StagingSeen:
        known = self._seen.get(job.name)
        progress = known.progress if known is not None else Progress()
        try:
            found = await self._jobs.look(job.name)
            if found is None:
                await self._jobs.start(order_of(job))
                return StagingSeen(job=job.name, state=StagingState.RUNNING, at=at, progress=progress)
            return seen_of(found, read_output(await self._jobs.output(job.name)), at)
        except Retry as error:
            running = StagingState.RUNNING
            return StagingSeen(job=job.name, state=running, at=at, progress=progress, message=error.reason)
        except Stalled as error:
            failed = StagingState.FAILED
            return StagingSeen(job=job.name, state=failed, at=at, progress=progress, message=error.reason)


def order_of(job: StagingJob) -> JobOrder:
    """Return the program that a staging is."""
    command = command_line(job.uris, job.nodes, python=job.python, timeout=WITHIN)
    return JobOrder(id=job.name, command=command, runtime_env=json.loads(job.runtime_env))


def seen_of(job: Job, said: Said, at: datetime) -> StagingSeen:
    """Return what is seen of a job that printed this."""
    if not job.ended:
        state, message = StagingState.RUNNING, ""
    elif job.succeeded:
        state, message = StagingState.DONE, ""
    else:
        state, message = StagingState.FAILED, "; ".join(said.failures) or job.message or "the job was stopped"
    return StagingSeen(job=job.id, state=state, at=at, progress=said.progress, message=message)
