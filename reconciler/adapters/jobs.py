"""Programs on the cluster: Ray's jobs over REST. How weights come to nodes without Ray being imported here."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from reconciler.adapters.ray_rest import Answer, RayRest
from reconciler.errors import Stalled
from reconciler.ports import Job, JobOrder

ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}

OWNER = "heliostat.dev/owner"
"""Key of a job's metadata that says whose it is: other people's jobs are never listed here, hence never stopped."""


class RayJobs:
    """ports.Jobs over Ray's dashboard. Every call may raise Retry or Stalled."""

    def __init__(self, rest: RayRest, *, owner: str) -> None:
        """`rest` stays the caller's to close; `owner` is told from others on the same cluster."""
        self._rest = rest
        self._owner = owner

    async def start(self, order: JobOrder) -> None:
        """Start a program on the cluster's head; one of that id that is there already stays as it is."""
        if await self.look(order.id) is not None:  # Ray would answer 500, as for an outage.
            return
        body = {
            "entrypoint": order.command,
            "submission_id": order.id,
            "metadata": {OWNER: self._owner},
            "runtime_env": dict(order.runtime_env),
        }
        _accepted(await self._rest.send("POST", "/api/jobs/", body=body))

    async def look(self, job: str) -> Job | None:
        """Return how a program is getting on."""
        answer = await self._rest.get(f"/api/jobs/{job}")
        return None if answer.status == HTTPStatus.NOT_FOUND else _job(_accepted(answer).json())

    async def output(self, job: str) -> str:
        """Return what a program has printed so far."""
        answer = await self._rest.get(f"/api/jobs/{job}/logs")
        return "" if answer.status == HTTPStatus.NOT_FOUND else str(_accepted(answer).json().get("logs") or "")

    async def stop(self, job: str) -> None:
        """End a program that still runs."""
        answer = await self._rest.send("POST", f"/api/jobs/{job}/stop")
        if answer.status != HTTPStatus.NOT_FOUND:
            _accepted(answer)

    async def own(self) -> tuple[Job, ...]:
        """Return the programs that this owner started."""
        found = _accepted(await self._rest.get("/api/jobs/")).json()
        return tuple(_job(entry) for entry in found if (entry.get("metadata") or {}).get(OWNER) == self._owner)


def _job(found: dict[str, Any]) -> Job:
    status = str(found["status"])
    return Job(
        id=str(found.get("submission_id") or ""),
        ended=status in ENDED,
        succeeded=status == "SUCCEEDED",
        message=str(found.get("message") or ""),
    )


def _accepted(answer: Answer) -> Answer:
    if answer.status >= 400:
        raise Stalled(f"Ray refuses the job ({answer.status}): {answer.text}")
    return answer
