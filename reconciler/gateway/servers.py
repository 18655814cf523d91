"""Servers: what HAProxy calls an endpoint, and what has to happen to the servers of one lane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote, unquote

from reconciler.gateway.admin import ServerStat
from specs.observed import Endpoint


def server_name(endpoint: Endpoint) -> str:
    """Return a server's name: it says which replica it is, so that a restarted daemon can read it back."""
    return f"{quote(endpoint.replica, safe='').replace('~', '%7E').replace('%', ':')}_{endpoint.port}"


def server_address(endpoint: Endpoint) -> str:
    """Return `IP:PORT` as HAProxy writes it."""
    return f"[{endpoint.ip}]:{endpoint.port}" if ":" in endpoint.ip else f"{endpoint.ip}:{endpoint.port}"


def read_server(name: str, address: str) -> Endpoint:
    """Return the endpoint that a server stands for."""
    replica, _, port = name.rpartition("_")
    ip = address.rpartition(":")[0].strip("[]")
    return Endpoint(ip=ip, port=int(port), replica=unquote(replica.replace(":", "%")))


@dataclass(frozen=True, kw_only=True)
class Known:
    """An endpoint that was told. `missing_since`: the first complete observation that lacked it."""

    endpoint: Endpoint
    missing_since: datetime | None = None


def merge(
    known: Iterable[Known], told: Iterable[Endpoint], *, complete: bool, now: datetime, unseen: timedelta
) -> tuple[Known, ...]:
    """Return what is known of a cell's endpoints after an observation.

    Missing ones are kept for a while: while Serve rebuilds an application its list is empty although the
    old replicas serve. Health checks take out those that really stop. Blind time does not count.
    """
    seen = {server_name(endpoint): Known(endpoint=endpoint) for endpoint in told}
    for old in known:
        if server_name(old.endpoint) in seen:
            continue
        since = old.missing_since or (now if complete else None)
        if not (complete and since and now - since >= unseen):
            seen[server_name(old.endpoint)] = Known(endpoint=old.endpoint, missing_since=since)
    return tuple(seen[name] for name in sorted(seen))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a probe found. `is_ready`: this very application answers there and is not draining."""

    is_ready: bool
    detail: str = ""


def to_probe(known: Iterable[Known], present: Mapping[str, ServerStat]) -> tuple[Endpoint, ...]:
    """Return endpoints to probe: those without a server, and those that vanished from the list."""
    return tuple(
        entry.endpoint
        for entry in known
        if server_name(entry.endpoint) not in present or entry.missing_since is not None
    )


def add_commands(lane: str, endpoint: Endpoint, options: str) -> tuple[str, ...]:
    """Return the commands that add a probed endpoint; one after the other, all are needed."""
    server = f"{lane}/{server_name(endpoint)}"
    return (
        f"add server {server} {server_address(endpoint)} {options}",
        f"enable health {server}",
        f"enable server {server}",
    )


def removal_commands(lane: str, stat: ServerStat, *, is_overdue: bool) -> tuple[str, ...]:
    """Return the next commands to be rid of a server: drain, then maintenance once idle, then deletion.

    HAProxy refuses the deletion while a connection is left, an idle one included; it is then tried again.
    """
    server = f"{lane}/{stat.name}"
    if not stat.status.startswith("MAINT"):
        if stat.in_flight and not is_overdue:
            return () if stat.status.startswith("DRAIN") else (f"set server {server} state drain",)
        return (f"set server {server} state maint", f"del server {server}")
    if stat.in_flight and is_overdue:
        return (f"shutdown sessions server {server}", f"del server {server}")
    return (f"del server {server}",)
