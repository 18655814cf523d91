"""Weights onto the nodes of a Ray cluster from the command line: a Ray job, followed until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from reconciler.adapters.jobs import RayJobs
from reconciler.adapters.ray_rest import RayRest, last_line
from reconciler.errors import Retry, Stalled
from reconciler.ports import Job, JobOrder, Jobs
from specs.staging import Said, read_output

OWNER = "heliostat cache stage"
LOOK_EVERY = 0.5
"""Seconds between two looks at the job."""

LOST_AFTER = 60.0
"""Seconds without an answer after which Ray counts as gone."""

Told = Callable[[Mapping[str, Any]], None]


async def stage_on_cluster(ray: str, token: str | None, command: str, told: Told) -> str | None:
    """Run the job; hand over what it says of each node; return why it failed, `None` if it did not.

    If interrupted, or when Ray does not answer any more, the job is stopped: nobody would read what became of it.
    """
    order = JobOrder(id=f"heliostat-cache-{secrets.token_hex(8)}", command=command)
    async with RayRest(ray, token=token) as rest:
        jobs = RayJobs(rest, owner=OWNER)
        await jobs.start(order)
        told_of = 0
        try:
            while True:
                seen, logs = await look(jobs, order.id)
                said = read_output(logs)
                for result in said.results[told_of:]:
                    told(result)
                told_of = len(said.results)
                if seen.ended:
                    return None if seen.succeeded else why(seen, said, logs)
                await asyncio.sleep(LOOK_EVERY)
        except (asyncio.CancelledError, Retry, Stalled):
            with contextlib.suppress(Retry, Stalled):
                await jobs.stop(order.id)
            raise


async def look(jobs: Jobs, job: str) -> tuple[Job, str]:
    """Look at the job and what it printed; a head that is busy or starts anew is asked again for a while."""
    until = time.monotonic() + LOST_AFTER
    while True:
        try:
            seen = await jobs.look(job)
            if seen is None:
                return Job(id=job, ended=True, message="the cluster lost the job: its head was started anew"), ""
            return seen, await jobs.output(job)
        except Retry as error:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(max(LOOK_EVERY, error.after.total_seconds()))


def why(job: Job, said: Said, logs: str) -> str:
    """Return why a job failed, in a sentence."""
    return "; ".join(said.failures) or (last_line(logs) if logs.strip() else job.message) or "the job was stopped"
