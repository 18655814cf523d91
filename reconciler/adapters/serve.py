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
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from reconciler.adapters.ray_rest import Answer, RayRest, last_line
from reconciler.adapters.serve_details import ServeDetails, parse_details, to_seen
from reconciler.errors import PortError, Retry, Stalled
from reconciler.ports import Nodes, ServeSeen
from specs.canonical import canonical_json
from specs.effects import PutServeConfig
from specs.serve_document import check_document, compose, holds_redacted, same_application, unknown_fields

APPLICATIONS = "/api/serve/applications/"

FRESH_FOR = timedelta(milliseconds=400)
"""The loop and the gateway both read; within this they share one answer."""

PUT_WITHIN = timedelta(seconds=60)
"""The first PUT starts Serve's controller, which takes seconds on a cold node."""

READ_BACK_WITHIN = timedelta(seconds=5)
READ_BACK_PAUSE = timedelta(milliseconds=200)

MOST_PROBLEMS = 5
"""How many problems of a document are told; more help nobody."""

BUILD_PAUSE = timedelta(seconds=1)

ZONES_FRESH_FOR = timedelta(seconds=15)
"""A node's zone never changes; this is how soon a new node's zone is known."""


@dataclass(frozen=True, kw_only=True)
class ServeStart:
    """How Serve is started when nobody has started it yet. Serve cannot change these later.

    Replicas with direct ingress bind to `host` too: with Ray's default, 127.0.0.1, only gateways on the
    replica's own host would reach them. There is no request time-out: the gateway knows each service's
    `maxRequestDuration`, Serve's own limit would cut across it. `keep_alive` is how long a replica keeps an
    idle connection; the gateway drops its idle ones earlier, so that no request meets a closing connection.
    """

    host: str = "0.0.0.0"  # noqa: S104 - see above; the cluster's network policy is the fence
    port: int = 8000
    proxy_location: str = "EveryNode"
    keep_alive: timedelta = timedelta(seconds=90)

    def document(self) -> dict[str, Any]:
        """Return the top-level fields of the first PUT."""
        return {
            "proxy_location": self.proxy_location,
            "http_options": {
                "host": self.host,
                "port": self.port,
                "keep_alive_timeout_s": int(self.keep_alive.total_seconds()),
            },
        }


class RayServe:
    """ports.Serve on a Ray cluster's dashboard."""

    def __init__(self, rest: RayRest, *, nodes: Nodes | None = None, start: ServeStart | None = None) -> None:
        """`nodes` tells the endpoints' zones; without it they stay empty."""
        self._rest = rest
        self._nodes = nodes
        self._start = start or ServeStart()
        self._reading = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._seen: ServeSeen | None = None
        self._seen_at = 0.0
        self._zones: dict[str, str] = {}
        self._zones_at = float("-inf")

    async def read(self) -> ServeSeen:
        """Return all applications as Serve reports them now, at most 0.4 s old."""
        async with self._reading:
            if self._seen is not None and _now() - self._seen_at < FRESH_FOR.total_seconds():
                return self._seen
            details, zones = await asyncio.gather(self.details(), self._read_zones())
            self._seen, self._seen_at = to_seen(details, zones), _now()
            return self._seen

    async def put(self, change: PutServeConfig) -> None:
        """Read, compose, check, PUT, read back; nothing is sent when nothing would change."""
        async with self._writing:
            details = await self.details()
            if not _changes_anything(details, change):
                return
            _refuse_to_cut(details, change)
            document = compose_document(details, change, self._start)
            self._forget()
            answer = await self._rest.send("PUT", APPLICATIONS, body=document, within=PUT_WITHIN)
            if answer.status != 200:
                raise Stalled(f"Ray Serve refuses the composed document ({answer.status}): {_explain(answer)}")
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

    async def _read_back(self, change: PutServeConfig) -> None:
        """Wait until Serve shows what was put. Another writer may have been faster: then the plan is made anew."""
        deadline = _now() + READ_BACK_WITHIN.total_seconds()
        while _changes_anything(await self.details(), change):
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
        self._seen = None


def compose_document(details: ServeDetails, change: PutServeConfig, start: ServeStart) -> dict[str, Any]:
    """Return the whole document to PUT. Raises Stalled when Serve would refuse it or it holds masked secrets."""
    ours = frozenset(application.name for application in change.applications)
    foreign = []
    for name, application in sorted(details.applications.items()):
        if name in ours or name in change.removed or not application.is_declarative or application.is_leaving:
            continue
        if application.deployed_app_config is None:
            raise Retry(f"Ray Serve does not show the config of application {name}; a PUT now would delete it.")
        foreign.append(application.deployed_app_config)
    document = compose(_top_level(details, start), foreign, [application.config for application in change.applications])
    if holds_redacted(document):
        raise Stalled(
            "Ray's dashboard masks secrets (`<redacted>`) in the applications that it reports. Writing them back "
            "would destroy them. Reach the dashboard directly, not through a proxy that adds a browser's headers."
        )
    _refuse_invalid(document, ours)
    return document


def _refuse_invalid(document: Mapping[str, Any], ours: frozenset[str]) -> None:
    accepted = frozenset(str(application.get("name")) for application in document["applications"]) - ours
    problems = check_document(document, accepted=accepted)
    for application in document["applications"]:
        if application.get("name") in ours:
            problems += [f"application {application['name']}: {problem}" for problem in unknown_fields(application)]
    if problems:
        raise Stalled(f"Ray Serve would not run the composed document: {'; '.join(problems[:MOST_PROBLEMS])}")


def _top_level(details: ServeDetails, start: ServeStart) -> dict[str, Any]:
    if not details.is_running:
        return start.document()
    return {
        "proxy_location": details.proxy_location,
        "http_options": details.http_options,
        "grpc_options": details.grpc_options,
        "target_capacity": details.target_capacity,
    }


def _changes_anything(details: ServeDetails, change: PutServeConfig) -> bool:
    """Return whether Serve holds something else than what `change` declares."""
    for wanted in change.applications:
        application = details.applications.get(wanted.name)
        if application is None or application.is_leaving or application.deployed_app_config is None:
            return True
        if not same_application(wanted.config, canonical_json(application.deployed_app_config)):
            return True
    return any(
        name in details.applications and not details.applications[name].is_leaving for name in sorted(change.removed)
    )


def _refuse_to_cut(details: ServeDetails, change: PutServeConfig) -> None:
    if change.may_cut_builds:
        return
    building = sorted(
        name
        for name, application in details.applications.items()
        if application.is_building and name not in change.removed
    )
    if building:
        raise Retry(f"Ray Serve builds {', '.join(building)}; a change now would start that again.", BUILD_PAUSE)


def _explain(answer: Answer) -> str:
    """Return Serve's refusal without the values that it repeats: secrets may be among them."""
    return re.sub(r"\[type=[^\n]*", "", answer.text)


def _error_field(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        return last_line(answer.text)


def _now() -> float:
    return asyncio.get_running_loop().time()
