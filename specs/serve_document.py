"""Serve's document, the body of its REST PUT: how it is composed and checked, and how Serve keeps it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from specs.canonical import canonical_json
from specs.serve_schema import Application, Deployment, TopLevel, problems_of

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

LOG_LEVEL_NAMES = {0: "NOTSET", 10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}

APPLICATION_FIELDS = frozenset(Application.model_fields)
DEPLOYMENT_FIELDS = frozenset(Deployment.model_fields)


def deployed_form(application: Mapping[str, Any]) -> dict[str, Any]:
    """Return an application's config as Serve gives it back in `deployed_app_config`.

    What is declared and what is deployed are compared in this form: Serve turns some numbers into floats.
    """
    form = {key: _deployed_logging(value) if key == "logging_config" else value for key, value in application.items()}
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


def check_document(document: Mapping[str, Any], *, accepted: frozenset[str] = frozenset()) -> list[str]:
    """Return what Serve would refuse, or accept and then fail on. Empty when nothing is known to be wrong.

    `accepted` names applications that Serve runs with this very config: only what they share with others is
    checked. A foreign application that is broken already must not keep ours from moving.
    """
    problems = problems_of(TopLevel, dict(document), "document")
    applications = document.get("applications")
    if not isinstance(applications, list):
        return [*problems, "document.applications: a list is wanted"]
    for number, application in enumerate(applications):
        if not (isinstance(application, Mapping) and application.get("name") in accepted):
            problems += problems_of(Application, application, _where(application, number))
    entries = [application for application in applications if isinstance(application, Mapping)]
    problems += _shared((entry.get("name", "default") for entry in entries), "name")
    problems += _shared((entry.get("route_prefix", "/") for entry in entries), "route_prefix")
    return problems


def unknown_fields(application: Mapping[str, Any]) -> list[str]:
    """Return the fields that Serve drops without a word, so that they would never be seen deployed."""
    found = [f"{name}: Serve does not know this field" for name in sorted(set(application) - APPLICATION_FIELDS)]
    for deployment in application.get("deployments", ()):
        label = f"deployments.{deployment.get('name', '?')}"
        found += [
            f"{label}.{name}: Serve does not know this field" for name in sorted(set(deployment) - DEPLOYMENT_FIELDS)
        ]
    return found


def holds_redacted(value: Any) -> bool:
    """Return whether a masked secret stands anywhere in `value`."""
    if isinstance(value, Mapping):
        return any(holds_redacted(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(holds_redacted(part) for part in value)
    return isinstance(value, str) and REDACTED in value


def _where(application: Any, number: int) -> str:
    name = application.get("name", "default") if isinstance(application, Mapping) else number
    return f"application {name}"


def _shared(values: Iterable[Any], field: str) -> list[str]:
    counts = Counter(value for value in values if isinstance(value, str))
    return [
        f"{field} {value!r} is used by {count} applications" for value, count in sorted(counts.items()) if count > 1
    ]


def _parse(config: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(config)
    return parsed


@lru_cache(maxsize=1024)
def _form_of(config: str) -> str:
    return canonical_json(deployed_form(_parse(config)))


def _deployed_deployment(deployment: Mapping[str, Any]) -> dict[str, Any]:
    form = {key: _as_float(value) if key in FLOAT_FIELDS else value for key, value in deployment.items()}
    if "logging_config" in form:
        form["logging_config"] = _deployed_logging(form["logging_config"])
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


def _deployed_logging(logging: Any) -> Any:
    """Serve names levels given as numbers, and keeps the extra attributes as a set."""
    if not isinstance(logging, Mapping):
        return logging
    form = dict(logging)
    if "log_level" in form:
        form["log_level"] = LOG_LEVEL_NAMES.get(form["log_level"], form["log_level"])
    if isinstance(form.get("additional_log_standard_attrs"), list):
        form["additional_log_standard_attrs"] = sorted(set(form["additional_log_standard_attrs"]))
    return form


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
