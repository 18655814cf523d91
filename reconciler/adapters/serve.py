"""Ray Serve through its REST API: the only place that reads and writes Serve's document.

A PUT replaces the whole set of applications, cancels every build in progress and tries every failed build
again. So it is composed from what was read a moment before, checked, sent only when it changes something,
and read back.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote

from reconciler.adapters.ray_rest import Answer, RayRest, last_line
from reconciler.adapters.serve_check import Concern, concerns_of, read_head_host, read_version
from reconciler.adapters.serve_details import ServeDetails, parse_details, to_seen
from reconciler.adapters.serve_put import ServeStart, document_for, is_held
from reconciler.adapters.serve_refusals import RefusedEntries
from reconciler.errors import PortError, Retry, Stalled
from reconciler.ports import Nodes, ServeSeen
from specs.effects import PutServeConfig

__all__ = ["RayServe", "ServeStart"]

APPLICATIONS = "/api/serve/applications/"

FRESH_FOR = timedelta(milliseconds=400)
"""The loop and the gateway both read; within this they share one answer."""

PUT_WITHIN = timedelta(seconds=60)
"""The first PUT starts Serve's controller, which takes seconds on a cold node."""

READ_BACK_WITHIN = timedelta(seconds=5)
READ_BACK_PAUSE = timedelta(milliseconds=200)

CHECKS_DOCUMENT = b"ServeDeploySchema.model_validate"
"""In the traceback of a dashboard that failed while it checked a document: that is the document's fault."""

ZONES_FRESH_FOR = timedelta(seconds=15)
"""A node's zone never changes; this is how soon a new node's zone is known."""


class RayServe:
    """ports.Serve on a Ray cluster's dashboard."""

    def __init__(self, rest: RayRest, *, nodes: Nodes | None = None, start: ServeStart | None = None) -> None:
        """`nodes` tells the endpoints' zones; without it they stay empty."""
        self._rest = rest
        self._nodes = nodes
        self._start = start or ServeStart()
        self._reading = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._refused = RefusedEntries()
        self._seen: ServeSeen | None = None
        self._seen_at = 0.0
        self._epoch = 0
        self._zones: dict[str, str] = {}
        self._zones_at = float("-inf")

    async def read(self) -> ServeSeen:
        """Return all applications as Serve reports them now, at most 0.4 s old."""
        async with self._reading:
            if self._seen is not None and _now() - self._seen_at < FRESH_FOR.total_seconds():
                return self._seen
            epoch = self._epoch
            details, zones = await asyncio.gather(self.details(), self._read_zones())
            seen = replace(to_seen(details, zones), refused=self._refused.present())
            if epoch == self._epoch:
                self._seen, self._seen_at = seen, _now()
            return seen

    async def put(self, change: PutServeConfig) -> None:
        """Read, compose, check, PUT, read back; nothing is sent when nothing would change.

        An entry for which Serve refuses the whole document is left out, and told by `read`.
        """
        async with self._writing:
            refusal = await self._send(change)
            if refusal:
                change = await self._refused.put_apart(change, await self.details(), self._send, refusal)
            else:
                self._refused.took(change)
            await self._read_back(change)

    async def scale(self, application: str, deployment: str, target: int) -> None:
        """Set one deployment's target count. Raises Stalled when the application has no external scaler."""
        path = f"/api/v1/applications/{quote(application, safe='')}/deployments/{quote(deployment, safe='')}/scale"
        self._forget()
        answer = await self._rest.send("POST", path, body={"target_num_replicas": target})
        if answer.status == 200:
            return
        where = f"deployment {deployment} of application {application}"
        reason = _error_field(answer)
        if answer.status == 404 or "deleted" in reason:
            raise Retry(f"Ray Serve has no {where} to scale (yet, or any more).")
        raise Stalled(f"Ray Serve does not scale {where} to {target}: {reason}")

    async def details(self) -> ServeDetails:
        """Return Serve's own report, never cached."""
        answer = await self._rest.get(APPLICATIONS)
        if answer.status != 200:
            raise Retry(f"Ray Serve does not list its applications ({answer.status}): {last_line(answer.text)}")
        return parse_details(answer.json())

    async def check(self) -> tuple[Concern, ...]:
        """Return what is wrong with the cluster, worst first. Raises Stalled when it refuses Heliostat."""
        version = await read_version(self._rest)
        details = await self.details()
        nodes = await self._nodes.read() if self._nodes is not None else ()
        return concerns_of(version, details, nodes, await read_head_host(self._rest))

    async def _send(self, change: PutServeConfig) -> str:
        """PUT a change; return why Serve refuses it, "" when it holds it now."""
        document = document_for(await self.details(), change, self._start)
        if document is None:
            return ""
        self._forget()
        answer = await self._rest.send("PUT", APPLICATIONS, body=document, within=PUT_WITHIN, may_fail=True)
        if answer.status == 200:
            return ""
        if answer.status >= 500 and CHECKS_DOCUMENT not in answer.body:
            raise self._rest.failed(answer)
        return f"Ray Serve refuses the composed document ({answer.status}): {_explain(answer)}"

    async def _read_back(self, change: PutServeConfig) -> None:
        """Wait until Serve shows what was put. Another writer may have been faster: then the plan is made anew."""
        deadline = _now() + READ_BACK_WITHIN.total_seconds()
        while not is_held(await self.details(), change):
            if _now() > deadline:
                raise Retry(
                    "Ray Serve accepted the applications but does not show them; another writer may have replaced them."
                )
            await asyncio.sleep(READ_BACK_PAUSE.total_seconds())
        self._forget()

    async def _read_zones(self) -> Mapping[str, str]:
        """Return zones by node id. Old zones do when nodes cannot be read: they only prefer, never decide."""
        if self._nodes is None or _now() - self._zones_at < ZONES_FRESH_FOR.total_seconds():
            return self._zones
        try:
            nodes = await self._nodes.read()
        except PortError:
            return self._zones
        self._zones = {node.id: node.zone or "" for node in nodes}
        self._zones_at = _now()
        return self._zones

    def _forget(self) -> None:
        """Drop the shared answer, and keep a read that is under way from bringing the old state back."""
        self._seen = None
        self._epoch += 1


def _explain(answer: Answer) -> str:
    """Return Serve's refusal without the values that it repeats: secrets may be among them."""
    if answer.status >= 500:
        return last_line(answer.text)
    return re.sub(r"\[type=[^\n]*", "", answer.text)


def _error_field(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        return last_line(answer.text)


def _now() -> float:
    return asyncio.get_running_loop().time()
