"""The cluster's jobs in virtual time: they stage weights, or fail to, as they are told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reconciler.errors import PortError
from reconciler.ports import Clock, Job, JobOrder

MOODS = ("good", "bad", "endless")


@dataclass(kw_only=True)
class Program:
    """One job: `mood` says how it goes."""

    order: JobOrder
    began: datetime
    mood: str
    stopped_at: datetime | None = None


@dataclass
class FakeJobs:
    """ports.Jobs. `mood` is how those go that start from now on; while `problem` is set, every call raises it."""

    clock: Clock
    mood: str = "good"
    takes: timedelta = timedelta(seconds=20)
    problem: PortError | None = None
    nodes: int = 3
    programs: dict[str, Program] = field(default_factory=dict)
    foreign: dict[str, Program] = field(default_factory=dict)
    """Jobs of other people."""
    starts: int = 0

    async def start(self, order: JobOrder) -> None:
        self._refuse()
        if order.id not in self.programs:
            self.starts += 1
            self.programs[order.id] = Program(order=order, began=self.clock.now(), mood=self.mood)

    async def look(self, job: str) -> Job | None:
        self._refuse()
        found = self.programs.get(job)
        return None if found is None else self._job(found)

    async def output(self, job: str) -> str:
        self._refuse()
        found = self.programs.get(job)
        if found is None:
            return ""
        share = 0.0 if found.mood == "bad" else min(1.0, (self.clock.now() - found.began) / self.takes)
        ended = self.nodes if self._job(found).ended else 0
        size = 1000 * self.nodes
        progress = {"progress": {"done": int(size * share), "size": size, "nodes": self.nodes, "ended": ended}}
        results = [{"node": "node1", "uri": "s3://w", "error": "forbids it (403)"}] if found.mood == "bad" else []
        return "INFO connected\n" + "\n".join(json.dumps(each) for each in [*results, progress])

    async def stop(self, job: str) -> None:
        self._refuse()
        found = self.programs.get(job)
        if found is not None and not self._job(found).ended:
            found.stopped_at = self.clock.now()

    async def own(self) -> tuple[Job, ...]:
        self._refuse()
        return tuple(self._job(found) for _, found in sorted(self.programs.items()))

    def lose(self) -> None:
        """Forget everything, as a restarted head does."""
        self.programs.clear()

    def running(self) -> list[str]:
        """Return the jobs that still run, ours and other people's."""
        every = {**self.programs, **self.foreign}
        return sorted(name for name, found in every.items() if not self._job(found).ended)

    def _job(self, found: Program) -> Job:
        ran = (self.clock.now() - found.began) >= self.takes and found.mood != "endless"
        ended = ran or found.stopped_at is not None
        succeeded = ended and found.stopped_at is None and found.mood == "good"
        message = "" if succeeded or not ended else "exit code 1"
        return Job(id=found.order.id, ended=ended, succeeded=succeeded, message=message)

    def _refuse(self) -> None:
        if self.problem is not None:
            raise self.problem
