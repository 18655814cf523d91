"""From what Serve shows and what is to change, to the document to PUT. Pure: the simulation uses it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from reconciler.adapters.serve_details import ServeDetails
from reconciler.errors import Retry, Stalled
from specs.canonical import canonical_json
from specs.effects import PutServeConfig
from specs.serve_document import check_document, compose, holds_redacted, same_application, unknown_fields

MOST_PROBLEMS = 5
"""How many problems of a document are told; more help nobody."""

BUILD_PAUSE = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class ServeStart:
    """How Serve is started when nobody has started it yet. Serve cannot change these later.

    Replicas with direct ingress bind to `host` too: with Ray's default, 127.0.0.1, only gateways on the
    replica's own host would reach them. There is no request time-out: the gateway knows each service's
    `maxRequestDuration`, Serve's own limit would cut across it. `keep_alive` is how long a replica keeps an
    idle connection; the gateway drops its idle ones earlier, so that no request meets a closing connection.
    `proxy_location` must not be Disabled: replicas then open no HTTP port at all.
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


def document_for(details: ServeDetails, change: PutServeConfig, start: ServeStart) -> dict[str, Any] | None:
    """Return the whole document to PUT, or None when Serve holds all of `change` already.

    Raises Retry while a build would be cut, Stalled when Serve would refuse the document or it holds masked
    secrets.
    """
    if is_held(details, change):
        return None
    _refuse_to_cut(details, change)
    ours = frozenset(application.name for application in change.applications)
    foreign = [_foreign_config(details, name) for name in _foreign(details, ours | change.removed)]
    document = compose(_top_level(details, start), foreign, [application.config for application in change.applications])
    if holds_redacted(document):
        raise Stalled(
            "Ray's dashboard masks secrets (`<redacted>`) in the applications that it reports. Writing them back "
            "would destroy them. Reach the dashboard directly, not through a proxy that adds a browser's headers."
        )
    _refuse_invalid(document, ours)
    return document


def is_held(details: ServeDetails, change: PutServeConfig) -> bool:
    """Return whether Serve holds exactly what `change` declares."""
    for wanted in change.applications:
        application = details.applications.get(wanted.name)
        if application is None or application.deployed_app_config is None:
            return False
        if not same_application(wanted.config, canonical_json(application.deployed_app_config)):
            return False
    return not any(
        name in details.applications and not details.applications[name].is_leaving for name in change.removed
    )


def _foreign(details: ServeDetails, ours: frozenset[str]) -> list[str]:
    return [
        name
        for name, application in sorted(details.applications.items())
        if name not in ours and application.is_declarative and not application.is_leaving
    ]


def _foreign_config(details: ServeDetails, name: str) -> Mapping[str, Any]:
    config = details.applications[name].deployed_app_config
    if config is None:
        raise Retry(f"Ray Serve does not show the config of application {name}; a PUT now would delete it.")
    return config


def _top_level(details: ServeDetails, start: ServeStart) -> dict[str, Any]:
    if not details.is_running:
        return start.document()
    return {
        "proxy_location": details.proxy_location,
        "http_options": details.http_options,
        "grpc_options": details.grpc_options,
        "target_capacity": details.target_capacity,
    }


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


def _refuse_invalid(document: Mapping[str, Any], ours: frozenset[str]) -> None:
    accepted = frozenset(str(application.get("name")) for application in document["applications"]) - ours
    problems = check_document(document, accepted=accepted)
    for application in document["applications"]:
        if application.get("name") in ours:
            problems += [f"application {application['name']}: {problem}" for problem in unknown_fields(application)]
    if problems:
        raise Stalled(f"Ray Serve would not run the composed document: {'; '.join(problems[:MOST_PROBLEMS])}")
