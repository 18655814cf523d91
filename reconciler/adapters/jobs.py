"""Programs on the cluster: Ray's jobs over REST. How weights are staged on nodes without Ray being imported here."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.adapters.ray_rest import Answer, RayRest
from reconciler.errors import Stalled

ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it was last seen; `message` is Ray's, `logs` is what the program has printed so far."""

    ended: bool
    succeeded: bool
    message: str
    logs: str


class RayJobs:
    """The jobs of one cluster. Every call may raise Retry or Stalled."""

    def __init__(self, rest: RayRest) -> None:
        """`rest` stays the caller's to close."""
        self._rest = rest

    async def submit(self, entrypoint: str) -> str:
        """Start a program (a shell command) on the cluster's head; return the job's id."""
        answer = await self._rest.send("POST", "/api/jobs/", body={"entrypoint": entrypoint})
        return str(_accepted(answer).json()["submission_id"])

    async def look(self, job: str) -> Job:
        """Return how a job is getting on."""
        found = _accepted(await self._rest.get(f"/api/jobs/{job}")).json()
        logs = _accepted(await self._rest.get(f"/api/jobs/{job}/logs")).json()
        status = str(found["status"])
        return Job(
            ended=status in ENDED,
            succeeded=status == "SUCCEEDED",
            message=str(found.get("message") or ""),
            logs=str(logs.get("logs") or ""),
        )

    async def stop(self, job: str) -> None:
        """End a job that still runs."""
        _accepted(await self._rest.send("POST", f"/api/jobs/{job}/stop"))


def _accepted(answer: Answer) -> Answer:
    if answer.status >= 400:
        raise Stalled(f"Ray refuses the job ({answer.status}): {answer.text}")
    return answer
