"""Weights onto the nodes of a Ray cluster from the command line: a Ray job, followed until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from reconciler.adapters.jobs import Job, RayJobs
from reconciler.adapters.ray_rest import RayRest, last_line
from reconciler.errors import Retry, Stalled

PROGRAM = "-m loaders.safetensors.stage_nodes"
LOOK_EVERY = 0.5
"""Seconds between two looks at the job."""

LOST_AFTER = 60.0
"""Seconds without an answer after which Ray counts as gone."""

Told = Callable[[dict[str, Any]], None]


def command_line(
    uri: str, nodes: Sequence[str], region: str | None, timeout: float | None, python: str = "python"
) -> str:
    """Return what the job runs. Every word is quoted: Ray gives it to a shell."""
    options = {"--nodes": ",".join(nodes), "--region": region, "--timeout": None if timeout is None else f"{timeout:g}"}
    given = [f"{name}={value}" for name, value in options.items() if value]
    return " ".join([shlex.quote(python), PROGRAM, *(shlex.quote(word) for word in [*given, "--", uri])])


async def stage_on_cluster(ray: str, token: str | None, entrypoint: str, told: Told) -> str | None:
    """Run the job; hand over what it says of each node; return why it failed, `None` if it did not.

    If interrupted, or when Ray does not answer any more, the job is stopped: nobody would read what became of it.
    """
    async with RayRest(ray, token=token) as rest:
        jobs = RayJobs(rest)
        job = await jobs.submit(entrypoint)
        said = 0
        try:
            while True:
                seen = await _look(jobs.look, job)
                nodes = documents(seen)
                for node in nodes[said:]:
                    told(node)
                said = len(nodes)
                if seen.ended:
                    return None if seen.succeeded else why(seen)
                await asyncio.sleep(LOOK_EVERY)
        except (asyncio.CancelledError, Retry, Stalled):
            with contextlib.suppress(Retry, Stalled):
                await jobs.stop(job)
            raise


async def _look(look: Callable[[str], Awaitable[Job]], job: str) -> Job:
    """Look at the job; a head that is busy or starts anew is asked again for a while."""
    until = time.monotonic() + LOST_AFTER
    while True:
        try:
            return await look(job)
        except Retry as error:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(max(LOOK_EVERY, error.after.total_seconds()))


def documents(job: Job) -> list[dict[str, Any]]:
    """Return what the program said of nodes; the rest of its output is Ray's."""
    lines = [line for line in job.logs.splitlines() if line.startswith('{"node"')]
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # the line is still being written
            break
    return found


def why(job: Job) -> str:
    """Return why a job failed, in a sentence."""
    failed = [f"{node['node'][:12]}: {node['error']}" for node in documents(job) if node.get("error")]
    return "; ".join(failed) or last_line(job.logs) or job.message or "the job was stopped"
