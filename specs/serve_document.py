"""Serve's document, the body of its REST PUT: how it is composed, and how Serve keeps what it is given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from specs.canonical import canonical_json

REDACTED = "<redacted>"
"""What Ray's dashboard puts in the place of secrets for clients that look like browsers."""

FLOAT_FIELDS = frozenset(
    {
        "graceful_shutdown_wait_loop_s",
        "graceful_shutdown_timeout_s",
        "health_check_period_s",
        "health_check_timeout_s",
        "rolling_update_percentage",
    }
)
"""A deployment's fields that Serve turns into floats, so that 20 comes back as 20.0."""

FLOAT_ACTOR_OPTIONS = frozenset({"num_cpus", "num_gpus", "memory"})


def deployed_form(application: Mapping[str, Any]) -> dict[str, Any]:
    """Return an application's config as Serve gives it back in `deployed_app_config`.

    What is declared and what is deployed are compared in this form: Serve turns some numbers into floats.
    """
    form = dict(application)
    if "deployments" in form:
        form["deployments"] = [_deployed_deployment(deployment) for deployment in form["deployments"]]
    return form


def same_application(wanted: str, deployed: str) -> bool:
    """Return whether two canonical configs mean the same application to Serve."""
    return wanted == deployed or _form_of(wanted) == _form_of(deployed)


def compose(found: Mapping[str, Any], foreign: Iterable[Mapping[str, Any]], ours: Iterable[str]) -> dict[str, Any]:
    """Return the document to PUT: top-level fields as `found`, foreign applications as they are, then ours.

    `ours` are canonical JSON texts of whole applications.
    """
    applications = sorted(foreign, key=lambda application: str(application.get("name", "")))
    applications += [_parse(config) for config in ours]
    return {**{key: value for key, value in found.items() if value is not None}, "applications": applications}


def holds_redacted(value: Any) -> bool:
    """Return whether a masked secret stands anywhere in `value`."""
    if isinstance(value, Mapping):
        return any(holds_redacted(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(holds_redacted(part) for part in value)
    return isinstance(value, str) and REDACTED in value


def _parse(config: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(config)
    return parsed


def _form_of(config: str) -> str:
    return canonical_json(deployed_form(_parse(config)))


def _deployed_deployment(deployment: Mapping[str, Any]) -> dict[str, Any]:
    form = {key: _as_float(value) if key in FLOAT_FIELDS else value for key, value in deployment.items()}
    options = form.get("ray_actor_options")
    if isinstance(options, Mapping):
        form["ray_actor_options"] = {
            key: _as_float(value) if key in FLOAT_ACTOR_OPTIONS else value for key, value in options.items()
        }
    bundles = form.get("placement_group_bundles")
    if isinstance(bundles, list):
        form["placement_group_bundles"] = [
            {resource: _as_float(amount) for resource, amount in bundle.items()} for bundle in bundles
        ]
    return form


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
