"""What makes a revision: the part of a service whose change makes Serve rebuild or restart.

Decided field by field from Ray 2.60 (`get_app_code_version`, `override_deployment_info`,
`DeploymentVersion`), and held to it by a contract test on a real cluster:

* In the revision, hence in its id: `import_path`, `args`, `runtime_env`, and per deployment
  `ray_actor_options`, `placement_group_*`, `max_replicas_per_node`, `request_router_config`,
  `deployment_actors`, whether it is autoscaled, and its autoscaling `policy`; the content of each packaged
  folder. Also `maxRequestDuration`, which Serve could change in place: a live cell keeps the drain time
  that its requests were promised. And the URIs of `loading.stage`, in any order: other weights are another
  model, whatever the code says of them.
* In place (`IN_PLACE`), in the template but not in the id: Serve applies them to running replicas. These are
  `user_config`, `max_ongoing_requests`, `max_queued_requests`, `backpressure_config`,
  `graceful_shutdown_wait_loop_s`, `health_check_period_s`, `health_check_timeout_s`, `logging_config` (of the
  application too), `rolling_update_percentage`, `max_surge_percent`, and everything in `autoscaling_config` but
  its `policy`. `in_place_differs` tells when a live cell's entry must be PUT again for them.
* In neither: `num_replicas`, `min_replicas`, `max_replicas`, `initial_replicas`. They are
  `Revision.deployments`, and the planner writes them where it composes the entry.

A deployment with a fixed count has `autoscaling_config: null` in the template: the spec's count then holds
over autoscaling in the code, which Serve would otherwise prefer. When two deployments of an application
swap a fixed count for autoscaling, Serve happens to keep the replicas; the id changes all the same.

Two spellings of the same thing (`1` and `1.0` CPUs, an empty mapping and none, another order of keys or
deployments) are one template, so they are one document to Serve.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from specs.canonical import canonical_json
from specs.desired import AutoScale, DesiredDeployment, FixedScale, PackageRef, Revision, Scale
from specs.serve_application import Application, Deployment

ID_LENGTH = 12
"""Hex digits of a revision's id."""

PACKAGE_SCHEME = "package://"
"""How a template names a folder of the commit."""

IN_PLACE = frozenset(
    {
        "user_config",
        "max_ongoing_requests",
        "max_queued_requests",
        "backpressure_config",
        "graceful_shutdown_wait_loop_s",
        "graceful_shutdown_timeout_s",
        "health_check_period_s",
        "health_check_timeout_s",
        "logging_config",
        "rolling_update_percentage",
        "max_surge_percent",
    }
)
"""Options of a deployment that Serve changes without a restart."""

BOUNDS = ("min_replicas", "max_replicas", "initial_replicas")

_MEANINGFUL_NULLS = frozenset({"user_config", "autoscaling_config"})
"""Fields where null replaces what the code says; elsewhere null means that the field was left out."""

_SAME_AS_ABSENT_WHEN_EMPTY = frozenset(
    {
        *("args", "runtime_env", "resources", "label_selector", "fallback_strategy", "request_router_config"),
        *("request_router_kwargs", "policy", "policy_kwargs", "init_args", "init_kwargs", "actor_options"),
    }
)

_FREE_FORM = frozenset(
    {"args", "runtime_env", "user_config", "request_router_kwargs", "policy_kwargs", "init_args", "init_kwargs"}
    | {"actor_options", "resources", "label_selector"}
)
"""Values of the application's own making: nothing inside them is ours to tidy."""


def make_revision(
    application: Application,
    packages: Iterable[PackageRef],
    max_request_duration: timedelta,
    stage: Iterable[str] = (),
) -> Revision:
    """Return the revision of an application whose folders are packaged as `packages`; `stage` are URIs of weights."""
    found, stage = tuple(sorted(packages, key=lambda package: package.where)), tuple(stage)
    listed = sorted(application.deployments or [], key=lambda deployment: deployment.name)
    template = _template(application, found, max_request_duration)
    return Revision(
        id=digest(template, max_request_duration, stage),
        template=canonical_json(template),
        packages=found,
        max_request_duration=max_request_duration,
        deployments=tuple(DesiredDeployment(name=deployment.name, scale=_scale(deployment)) for deployment in listed),
        stage=stage,
    )


def in_place_differs(a: Revision, b: Revision) -> bool:
    """Return whether two records of one revision differ in what Serve applies to running replicas.

    A live cell of it then needs its entry PUT again, composed from the newer record; counts and bounds are
    not looked at.
    """
    return a.id == b.id and a.template != b.template


def restart_form(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a template whose change makes Serve rebuild the application or restart replicas."""
    form = {key: value for key, value in template.items() if key not in ("logging_config", "deployments")}
    deployments = (_restart_options(deployment) for deployment in template.get("deployments", ()))
    return {**form, "deployments": [options for options in deployments if len(options) > 1]}


def _restart_options(deployment: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in deployment.items() if key not in IN_PLACE}
    scaling = options.pop("autoscaling_config", None)
    if scaling is not None:
        options |= {"autoscaled": True, "policy": scaling.get("policy")}
    return options


def digest(template: Mapping[str, Any], max_request_duration: timedelta, stage: Iterable[str] = ()) -> str:
    """Return the id of the revision with this template and these staged weights, in whatever order."""
    seconds = max_request_duration.total_seconds()
    whole: dict[str, Any] = {"application": restart_form(template), "maxRequestSeconds": seconds}
    staged = sorted(stage)
    if staged:  # Else as it always was: nobody's revision changes because there is a new field.
        whole["stage"] = staged
    return hashlib.sha256(canonical_json(whole).encode("ascii")).hexdigest()[:ID_LENGTH]


def _scale(deployment: Deployment) -> Scale | None:
    if deployment.autoscaling_config is not None:
        scaling = deployment.autoscaling_config
        return AutoScale(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            initial_replicas=scaling.initial_replicas,
        )
    return None if deployment.num_replicas is None else FixedScale(replicas=deployment.num_replicas)


def _template(
    application: Application, packages: tuple[PackageRef, ...], max_request_duration: timedelta
) -> dict[str, Any]:
    template: dict[str, Any] = _tidy(application.model_dump(mode="json", exclude_unset=True))
    deployments = sorted(template.get("deployments", ()), key=lambda deployment: str(deployment["name"]))
    for deployment in deployments:
        _without_counts(deployment)
        deployment["graceful_shutdown_timeout_s"] = max_request_duration.total_seconds()
    template["deployments"] = deployments
    for package in packages:
        _place_package(template, package)
    return template


def _without_counts(deployment: dict[str, Any]) -> None:
    if deployment.pop("num_replicas", None) is not None:
        # Without the null, autoscaling in the code goes on and Serve ignores the fixed count.
        deployment["autoscaling_config"] = None
    for bound in BOUNDS:
        (deployment.get("autoscaling_config") or {}).pop(bound, None)


def _tidy(value: Any) -> Any:
    """Drop what says nothing, so that each meaning has one form."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidied = {key: item if key in _FREE_FORM else _tidy(item) for key, item in value.items()}
    if "additional_log_standard_attrs" in tidied:
        tidied["additional_log_standard_attrs"] = sorted(set(tidied["additional_log_standard_attrs"] or ()))
    return {
        key: item
        for key, item in tidied.items()
        if not (item is None and key not in _MEANINGFUL_NULLS)
        and not (key in _SAME_AS_ABSENT_WHEN_EMPTY and item in ({}, []))
    }


def _place_package(template: dict[str, Any], package: PackageRef) -> None:
    """Write a package's content in the place of the folder's name."""
    owner = template
    field = package.where
    if field.startswith("deployments."):
        name, field = _split_where(field.removeprefix("deployments."))
        listed = next(entry for entry in template["deployments"] if entry["name"] == name)
        owner = listed["ray_actor_options"]
    env = owner["runtime_env"]
    field, _, index = field.partition(".")
    if index:
        env[field][int(index)] = PACKAGE_SCHEME + package.tree
    else:
        env[field] = PACKAGE_SCHEME + package.tree


def _split_where(rest: str) -> tuple[str, str]:
    """Split `NAME.working_dir` or `NAME.py_modules.0`; a deployment's name may itself hold dots."""
    if rest.endswith(".working_dir"):
        return rest.removesuffix(".working_dir"), "working_dir"
    name, index = rest.rsplit(".py_modules.", 1)
    return name, f"py_modules.{index}"
