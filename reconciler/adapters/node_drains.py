"""Draining nodes, through Ray's own jobs: the daemon speaks REST only, and Ray drains through its GCS only."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import shlex
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.adapters.jobs import RayJobs
from reconciler.adapters.nodes import ROW_LIMIT
from reconciler.adapters.ray_rest import RayRest, last_line
from reconciler.errors import Retry, Stalled
from reconciler.ports import Job, JobOrder
from specs.compaction import Holding

PROGRAM = Path(__file__).parents[1] / "drain_program.py"
MARK = "HELIOSTAT "
OWNER = "heliostat drain"
LOOK_EVERY = timedelta(seconds=1)
DONE_WITHIN = timedelta(seconds=90)
"""A job needs seconds; a head that is short of memory may need much longer to start one."""

SERVES_OWN = ("SERVE_REPLICA::", "SERVE_PROXY_ACTOR")
"""Replicas are in Serve's own report, and its proxies go with a node."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ActorRow(_Row):
    """One row of `GET /api/v0/actors?detail=1`."""

    name: str | None = None
    class_name: str = ""
    node_id: str | None = None
    required_resources: dict[str, float] | None = None
    placement_group_id: str | None = None


class BundleRow(_Row):
    """One bundle of a placement group."""

    node_id: str | None = None
    unit_resources: dict[str, float] | None = None


class GroupRow(_Row):
    """One row of `GET /api/v0/placement_groups?detail=1`."""

    name: str = ""
    state: str = ""
    bundles: list[BundleRow] = Field(default_factory=list)


class RayDrains:
    """`ports.Drains` on a Ray cluster."""

    def __init__(self, rest: RayRest, python: str = "python") -> None:
        """`rest` is Ray's dashboard, `python` the interpreter on the cluster's head that has Ray."""
        self._rest = rest
        self._python = python
        self._jobs = RayJobs(rest, owner=OWNER)

    async def holdings(self) -> tuple[Holding, ...]:
        """Return the actors and bundles on nodes that Serve's report does not show."""
        alive = {"filter_keys": "state", "filter_predicates": "=", "filter_values": "ALIVE"}
        actors = await self._rows("/api/v0/actors", alive)
        groups = await self._rows("/api/v0/placement_groups", {})
        try:
            found = [
                *(_held_by_actor(ActorRow.model_validate(row)) for row in actors),
                *(held for row in groups for held in _held_by_group(GroupRow.model_validate(row))),
            ]
        except ValidationError:
            raise Retry("Ray's list of actors or placement groups cannot be read.") from None
        return tuple(sorted(filter(None, found), key=lambda held: (held.node, held.what)))

    async def drain(self, node: str, expected: Mapping[str, float] | None, why: str) -> None:
        """Drain a node unless more than `expected` of it is in use. Raises Stalled with the reason."""
        await self._run(node, command_line(node, expected, why, self._python))

    async def end(self, node: str) -> None:
        """Have Ray end on a node that drains and is empty. Raises Stalled when something of it is in use."""
        await self._run(node, f"{command_line(node, {}, '', self._python)} end")

    async def _run(self, node: str, command: str) -> None:
        job = f"heliostat-drain-{secrets.token_hex(8)}"
        await self._jobs.start(JobOrder(id=job, command=command))
        try:
            async with asyncio.timeout(DONE_WITHIN.total_seconds()):
                seen = await self._ended(job)
                output = await self._jobs.output(job)
        except TimeoutError:
            raise Retry(f"Ray's job {job} that drains node {node[:12]} has not ended in time.") from None
        said = _said(output)
        if not said.get("drained"):
            raise Stalled(str(said.get("why") or (last_line(output) if output.strip() else seen.message)))

    async def _ended(self, job: str) -> Job:
        while True:
            seen = await self._jobs.look(job)
            if seen is None:
                raise Retry(f"Ray's job {job} is gone: its head was started anew.")
            if seen.ended:
                return seen
            await asyncio.sleep(LOOK_EVERY.total_seconds())

    async def _rows(self, path: str, filters: Mapping[str, str]) -> list[Any]:
        answer = await self._rest.get(path, params={"detail": "1", "limit": ROW_LIMIT, **filters})
        document = answer.json()
        try:
            if not document["result"]:
                raise Retry(f"Ray cannot list {path}: {document['msg']}")
            found = document["data"]["result"]
            rows: list[Any] = found["result"]
        except (KeyError, TypeError):
            raise Retry(f"Ray's answer to {path} cannot be read.") from None
        if found.get("partial_failure_warning") or found.get("num_filtered", 0) > len(rows):
            raise Retry(f"Ray's answer to {path} is not complete.")
        return rows


def command_line(node: str, expected: Mapping[str, float] | None, why: str, python: str = "python") -> str:
    """Return what the job runs: the program's text, so that the cluster needs nothing of Heliostat's."""
    text = base64.b64encode(PROGRAM.read_bytes()).decode()
    starter = f"import base64;exec(compile(base64.b64decode('{text}'),'heliostat-drain','exec'))"
    amounts = json.dumps(dict(sorted(expected.items())) if expected is not None else None)
    words = [python, "-c", starter, node, amounts, why]
    return " ".join(shlex.quote(word) for word in words)


def _said(output: str) -> dict[str, Any]:
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    try:
        said = json.loads(lines[-1].removeprefix(MARK)) if lines else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _held_by_actor(row: ActorRow) -> Holding | None:
    if not row.node_id or (row.name or "").startswith(SERVES_OWN):
        return None
    what = row.name or row.class_name or "an actor"
    # What is in a placement group takes its bundle's resources: those are counted there.
    resources = {} if row.placement_group_id else (row.required_resources or {})
    return Holding(node=row.node_id, what=what, resources=resources)


def _held_by_group(row: GroupRow) -> list[Holding]:
    """Bundles of Serve's replicas are counted with the replicas, as long as they share a node."""
    nodes = {bundle.node_id for bundle in row.bundles if bundle.node_id}
    if row.state == "REMOVED" or (row.name.startswith(SERVES_OWN) and len(nodes) <= 1):
        return []
    what = f"the placement group {row.name}".strip() if row.name else "a placement group"
    return [
        Holding(node=bundle.node_id, what=what, resources=bundle.unit_resources or {})
        for bundle in row.bundles
        if bundle.node_id
    ]
