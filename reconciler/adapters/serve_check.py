"""Whether a cluster is one that Heliostat can keep: what is wrong with it, and how to mend that.

KubeRay's RayService writes Serve's document itself and would take Heliostat's applications out again at its
next change. Its operator cannot be asked through Ray; what shows is that it names its clusters
`SERVICE-raycluster-SUFFIX` (KubeRay up to 1.3), so that the head's host name tells, or the label that it
gives its pods, where those are passed on to Ray as node labels. Newer operators name clusters like anybody
else: then nothing shows before the first conflict, and the loop puts missing cells back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from reconciler.adapters.ray_rest import RayRest
from reconciler.adapters.serve_details import ServeDetails
from reconciler.errors import Retry
from specs.observed import Node

OLDEST_RAY = (2, 60)
"""The first version with the external scaler and direct ingress as Heliostat uses them."""

ORIGIN_LABEL = "ray.io/originated-from-crd"
RAYSERVICE_HEAD = re.compile(r"(?P<owner>.+)-raycluster-[a-z0-9]{5}-head(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Concern:
    """One thing that is not as Heliostat needs it. With `is_fatal` Heliostat must not act on this cluster."""

    subject: str
    text: str
    mend: str
    is_fatal: bool = False


async def read_version(rest: RayRest) -> str:
    """Return the cluster's Ray version, such as 2.60.0."""
    answer = await rest.get("/api/version")
    try:
        return str(answer.json()["ray_version"])
    except (KeyError, TypeError):
        raise Retry("Ray's dashboard does not tell its version; it may not be Ray's dashboard.") from None


async def read_head_host(rest: RayRest) -> str:
    """Return the host name of the head, "" when Ray does not tell it (yet)."""
    answer = await rest.get("/nodes", params={"view": "summary"})
    try:
        rows: list[Mapping[str, Any]] = answer.json()["data"]["summary"]
        return next((str(row["hostname"]) for row in rows if row["raylet"].get("isHeadNode")), "")
    except (KeyError, TypeError, AttributeError):
        return ""


def concerns_of(version: str, details: ServeDetails, nodes: Iterable[Node], head_host: str) -> tuple[Concern, ...]:
    """Return what is wrong with a cluster, worst first."""
    alive = [node for node in nodes if node.is_alive]
    found = [*_version(version), *_owner(details, alive, head_host), *_serve(details, alive)]
    return tuple(sorted(found, key=lambda concern: not concern.is_fatal))


def _version(version: str) -> Iterator[Concern]:
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST_RAY:
        oldest = ".".join(map(str, OLDEST_RAY))
        yield Concern(
            subject="ray version",
            text=f"The cluster runs Ray {version}; Heliostat needs {oldest} for scaling single deployments.",
            mend=f"Move the cluster to Ray {oldest}.",
            is_fatal=True,
        )


def _owner(details: ServeDetails, alive: list[Node], head_host: str) -> Iterator[Concern]:
    named = RAYSERVICE_HEAD.fullmatch(head_host)
    is_labelled = any(node.labels.get(ORIGIN_LABEL) == "RayService" for node in alive)
    if not is_labelled and named is None:
        return
    owner = named["owner"] if named is not None else "its name is in the labels of the pods"
    is_declared = any(application.is_declarative for application in details.applications.values())
    yield Concern(
        subject="rayservice",
        text=f"The cluster looks owned by a KubeRay RayService ({owner}), which puts its own applications in place.",
        mend="Give Heliostat a RayCluster and move the applications there: a RayService undoes what others deploy.",
        # A RayJob's cluster is named alike, but nobody declares applications in it.
        is_fatal=is_labelled or is_declared,
    )


def _serve(details: ServeDetails, alive: list[Node]) -> Iterator[Concern]:
    options = details.http_options or {}
    host = str(options.get("host", ""))
    if _is_loopback(host) and any(not _is_loopback(node.ip) for node in alive):
        yield Concern(
            subject="http host",
            text=f"Serve was started with http_options.host {host}: replicas cannot be reached from other hosts.",
            mend="Shut Serve down (`serve shutdown`) when nothing needs it; Heliostat starts it with 0.0.0.0.",
        )
    if details.proxy_location == "Disabled":
        yield Concern(
            subject="proxy location",
            text="Serve was started with proxy_location Disabled: replicas open no HTTP port.",
            mend="Shut Serve down (`serve shutdown`) when nothing needs it; Heliostat starts it with HTTP.",
            is_fatal=True,
        )
    if options.get("request_timeout_s"):
        yield Concern(
            subject="request time-out",
            text=f"Serve cuts every request after {options['request_timeout_s']:g} s, whatever a service allows.",
            mend="Start Serve without http_options.request_timeout_s.",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
