"""Plans from a process of their own, so that neither the loop nor the daemon's memory feels the solver."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from policies.compaction.problem import Answer, Problem
from reconciler.adapters.stored_values import from_json, to_json
from reconciler.errors import Retry

ENDED_WITHIN = timedelta(seconds=60)
"""A plan ends by itself after 2 s; on a machine that swaps, even starting it takes long."""

MODULE = "reconciler.compaction_worker"


class PlannerProcess:
    """`ports.Planner`; remembers its last answer, since the question is mostly the same as before."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._known: tuple[Problem, Answer] | None = None
        self._turn = asyncio.Lock()

    async def plan(self, problem: Problem) -> Answer:
        """Return the best answer found. Raises Retry when the process fails."""
        async with self._turn:
            if self._known is None or self._known[0] != problem:
                self._known = (problem, await _ask(problem))
            return self._known[1]


async def _ask(problem: Problem) -> Answer:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        MODULE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(ENDED_WITHIN.total_seconds()):
            said, complaint = await process.communicate(to_json(problem).encode())
    except TimeoutError:
        raise Retry(f"the compaction plan was not ready after {ENDED_WITHIN.total_seconds():g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise Retry(f"the compaction plan failed: {lines[-1] if lines else process.returncode}")
    try:
        return from_json(Answer, said.decode())
    except ValueError as error:
        raise Retry(f"the compaction plan cannot be read: {error}") from error
