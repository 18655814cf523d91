"""From a revision to the entry of Serve's document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from policies.once import once
from specs.canonical import canonical_json
from specs.cells import CellKey
from specs.desired import Revision
from specs.memory import CellMemory
from specs.observed import CellSeen
from specs.serve_document import same_application

GATEWAY_URL = "HELIOSTAT_GATEWAY_URL"
"""How an application finds the other services."""

PACKAGE_SCHEME = "package://"
"""How a template names a folder of the commit; its content address takes its place."""


def compose_config(revision: Revision, key: CellKey, gateway_url: str, *, autoscaled: bool) -> str:
    """Return the canonical JSON of a cell's application, without counts and bounds.

    The external scaler moves fixed-size deployments without a PUT; Serve refuses it together with
    autoscaling in one application.
    """
    uris = {PACKAGE_SCHEME + package.tree: package.uri for package in revision.packages}
    application: dict[str, Any] = _replace_packages(json.loads(revision.template), uris)
    for deployment in application.get("deployments") or []:
        _pin(deployment, key.site.selector)
    runtime_env = dict(application.get("runtime_env") or {})
    runtime_env["env_vars"] = {**(runtime_env.get("env_vars") or {}), GATEWAY_URL: gateway_url}
    application |= {
        "name": key.name,
        "route_prefix": key.route_prefix,
        "runtime_env": runtime_env,
        "external_scaler_enabled": not autoscaled,
    }
    return canonical_json(application)


def recompose_config(revision: Revision, cell: CellMemory) -> str:
    """Return a live cell's application with in-place settings of a newer spec.

    The gateway's address stays what it was when the cell was made: another one would restart its replicas.
    """
    old = json.loads(cell.config)
    gateway_url = old["runtime_env"]["env_vars"][GATEWAY_URL]
    return compose_config(revision, cell.key, gateway_url, autoscaled=not old["external_scaler_enabled"])


def _pin(deployment: dict[str, Any], labels: Mapping[str, str]) -> None:
    """Keep a deployment's replicas on nodes with these labels, beside those that it asks for itself.

    A placement group's bundles decide where its replicas are; a fallback must not lead out of the place either.
    """
    if not labels:
        return
    if deployment.get("placement_group_bundles"):
        selectors = deployment.get("placement_group_bundle_label_selector") or [{}]
        deployment["placement_group_bundle_label_selector"] = [{**selector, **labels} for selector in selectors]
        return
    options = dict(deployment.get("ray_actor_options") or {})
    options["label_selector"] = {**(options.get("label_selector") or {}), **labels}
    if options.get("fallback_strategy"):
        options["fallback_strategy"] = [
            {**way, "label_selector": {**(way.get("label_selector") or {}), **labels}}
            for way in options["fallback_strategy"]
        ]
    deployment["ray_actor_options"] = options


def _replace_packages(value: Any, uris: Mapping[str, str]) -> Any:
    match value:
        case dict():
            return {key: _replace_packages(item, uris) for key, item in value.items()}
        case list():
            return [_replace_packages(item, uris) for item in value]
        case str():
            return uris.get(value, value)
        case _:
            return value


def with_counts(cell: CellMemory, seen: CellSeen | None) -> str:
    """Return a cell's whole entry: its config with the counts and bounds last commanded.

    Only deployments that the template lists get counts. Zero replicas cannot be written down: the entry
    then keeps what Serve's document says, which leaves the scaled count alone.
    """
    return _with_counts(cell, seen.config if seen is not None else None)


@once
def _with_counts(cell: CellMemory, deployed: str | None) -> str:
    application = json.loads(cell.config)
    written = _written_counts(deployed)
    for deployment in application.get("deployments") or []:
        name = deployment["name"]
        if name in cell.counts:
            count = cell.counts[name] or written.get(name, 1)
            deployment["num_replicas"] = count
        if name in cell.bounds:
            bounds = cell.bounds[name]
            deployment["autoscaling_config"] = {
                **(deployment.get("autoscaling_config") or {}),
                "min_replicas": bounds.min_replicas,
                "max_replicas": bounds.max_replicas,
            }
    return canonical_json(application)


def _written_counts(deployed: str | None) -> Mapping[str, int]:
    if deployed is None:
        return {}
    listed = json.loads(deployed).get("deployments") or []
    return {entry["name"]: entry["num_replicas"] for entry in listed if isinstance(entry.get("num_replicas"), int)}


@lru_cache(maxsize=1024)
def without_counts(config: str) -> str:
    """Return a document entry without counts and bounds, to compare the rest."""
    application = json.loads(config)
    for deployment in application.get("deployments") or []:
        deployment.pop("num_replicas", None)
        auto = deployment.get("autoscaling_config")
        if auto is not None:
            deployment["autoscaling_config"] = {
                key: value for key, value in auto.items() if key not in ("min_replicas", "max_replicas")
            }
    return canonical_json(application)


@once
def is_other(cell: CellMemory, deployed: str) -> bool:
    """Return whether Serve's document has a cell's entry otherwise than it is to be; counts that are scaled aside."""
    entry = _with_counts(cell, deployed)
    if not same_application(without_counts(entry), without_counts(deployed)):
        return True
    return not cell.is_externally_scaled and not same_application(entry, deployed)
