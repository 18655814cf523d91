"""A Ray Serve application as a spec may write it: Serve's own fields and value rules, as far as known offline.

Mirrors `ServeApplicationSchema` and its parts in `ray/serve/schema.py` and `ray/serve/config.py` of Ray 2.60,
but refuses unknown fields, which Serve would ignore silently. What needs more than one field, or the
commit's folders, is in `specs.application`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from specs.selectors import is_choice, is_label_key
from specs.strict import StrictModel

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

IMPORT_PATH = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
ATTRIBUTE_PATH = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*([.:][A-Za-z_][A-Za-z0-9_]*)$"
DEPLOYMENT_NAME = r"^[^\s#/?%\\\"']{1,100}$"
"""Serve writes `APP#DEPLOYMENT#ID` into replica ids, and the scale call carries the name in its path."""

LOG_LEVELS = {"NOTSET": 0, "DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50, "WARN": 30, "FATAL": 50}


def _import_path(value: str) -> str:
    if re.fullmatch(IMPORT_PATH, value):
        return value
    module, _, attribute = value.rpartition(".")
    dotted = f"{module}:{attribute}"
    example = dotted if ":" not in value and re.fullmatch(IMPORT_PATH, dotted) else "module:attribute"
    raise ValueError(f'{value!r} is not an import path: write "{example}", the module and what to import from it')


def _attribute_path(value: str) -> str:
    if not re.fullmatch(ATTRIBUTE_PATH, value):
        raise ValueError(f'{value!r} does not name anything to import: write "module:attribute"')
    return value


def _deployment_name(value: str) -> str:
    if not re.fullmatch(DEPLOYMENT_NAME, value):
        raise ValueError(
            f"{value[:100]!r} cannot be a deployment's name: write 1 to 100 characters without spaces, quotes "
            "and # / ? % \\"
        )
    return value


def _selector(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not is_label_key(key):
            raise ValueError(f"{key!r} is not a label's name: write for instance ray.io/availability-zone")
        if not is_choice(text):
            raise ValueError(f"{text!r} is not a label selector: write value, !value, in(a, b) or !in(a, b)")
    return value


def _resources(value: dict[str, float]) -> dict[str, float]:
    for name, field in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        if name in value:
            raise ValueError(f"{name} is not a custom resource: write {field} beside resources")
    return value


def _log_level(value: Any) -> str:
    if isinstance(value, str) and value in LOG_LEVELS:
        return value
    for name, number in LOG_LEVELS.items():
        if type(value) is int and value == number:
            return name
    raise ValueError(f"{value!r} is not a log level: write DEBUG, INFO, WARNING, ERROR or CRITICAL")


def _queue_limit(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("max_queued_requests must be at least 1, or -1 for no limit")
    return value


Selector = Annotated[dict[str, str], AfterValidator(_selector)]
AttributePath = Annotated[str, AfterValidator(_attribute_path), Field(json_schema_extra={"pattern": ATTRIBUTE_PATH})]
LogLevel = Annotated[str, BeforeValidator(_log_level), WithJsonSchema({"enum": sorted(LOG_LEVELS)})]


class FallbackStrategy(StrictModel):
    """One weaker placement to fall back on."""

    label_selector: Selector


class RayActorOptions(StrictModel):
    """What one replica needs."""

    refused: ClassVar[dict[str, str]] = {
        "num_replicas": "write num_replicas beside ray_actor_options",
        "max_concurrency": "write max_ongoing_requests beside ray_actor_options",
    }

    num_cpus: NonNegative | None = None
    num_gpus: NonNegative | None = None
    memory: NonNegative | None = Field(default=None, description="Bytes of heap memory.")
    resources: Annotated[dict[str, NonNegative], AfterValidator(_resources)] | None = None
    accelerator_type: str | None = None
    label_selector: Selector | None = None
    fallback_strategy: list[FallbackStrategy] | None = None
    runtime_env: dict[str, Any] | None = Field(
        default=None, description="As of the application; replaces what it sets, env_vars are merged."
    )


class AutoscalingPolicy(StrictModel):
    """A custom function that decides counts."""

    policy_function: AttributePath | None = None
    policy_kwargs: dict[str, Any] | None = None


class Autoscaling(StrictModel):
    """Serve scales the deployment between two bounds."""

    refused: ClassVar[dict[str, str]] = {
        "target_num_ongoing_requests_per_replica": "write target_ongoing_requests",
    }

    min_replicas: Count = Field(default=1, description="At least 1.")
    max_replicas: Count = Field(default=1, description="At least min_replicas.")
    initial_replicas: Count | None = Field(default=None, description="Used when the service is first created only.")
    target_ongoing_requests: Positive | None = None
    metrics_interval_s: Positive | None = None
    look_back_period_s: Positive | None = None
    smoothing_factor: Positive | None = None
    upscale_smoothing_factor: Positive | None = None
    downscale_smoothing_factor: Positive | None = None
    upscaling_factor: Positive | None = None
    downscaling_factor: Positive | None = None
    downscale_delay_s: NonNegative | None = None
    downscale_to_zero_delay_s: NonNegative | None = None
    upscale_delay_s: NonNegative | None = None
    aggregation_function: Literal["mean", "max", "min"] | None = None
    policy: AutoscalingPolicy | None = None


class Backpressure(StrictModel):
    """What a client is told when the queue is full."""

    status_code: Literal[503, 429] | None = None
    retry_after_s: NonNegative | None = None


class Logging(StrictModel):
    """Serve's logs."""

    encoding: Literal["TEXT", "JSON"] | None = None
    log_level: LogLevel | None = None
    logs_dir: str | None = None
    enable_access_log: bool | None = None
    additional_log_standard_attrs: list[str] | None = None


class RequestRouter(StrictModel):
    """How calls between deployments choose a replica."""

    request_router_class: AttributePath | None = None
    request_router_kwargs: dict[str, Any] | None = None
    request_routing_stats_period_s: Positive | None = None
    request_routing_stats_timeout_s: Positive | None = None
    initial_backoff_s: Positive | None = None
    backoff_multiplier: Positive | None = None
    max_backoff_s: Positive | None = None


class DeploymentActor(StrictModel):
    """An actor that all replicas of a deployment share."""

    name: Annotated[str, Field(min_length=1)]
    actor_class: AttributePath
    init_args: list[Any] | None = None
    init_kwargs: dict[str, Any] | None = None
    actor_options: dict[str, Any] | None = None


class Deployment(StrictModel):
    """Options of one deployment; they replace those in the code."""

    refused: ClassVar[dict[str, str]] = {
        "graceful_shutdown_timeout_s": "Heliostat sets it: write spec.maxRequestDuration",
        "gang_scheduling_config": "Heliostat moves single replicas, which breaks gangs up: leave it out",
        "max_concurrent_queries": "write max_ongoing_requests",
        "route_prefix": "write spec.route",
        "version": "Heliostat makes revisions by itself: leave it out",
        "min_replicas": "write autoscaling_config: {min_replicas: ..., max_replicas: ...}",
        "max_replicas": "write autoscaling_config: {min_replicas: ..., max_replicas: ...}",
        "num_cpus": "write ray_actor_options: {num_cpus: ...}",
        "num_gpus": "write ray_actor_options: {num_gpus: ...}",
        "memory": "write ray_actor_options: {memory: ...}",
        "runtime_env": "write ray_actor_options: {runtime_env: ...}",
    }

    name: Annotated[str, AfterValidator(_deployment_name)] = Field(
        description="As in the code.", json_schema_extra={"pattern": DEPLOYMENT_NAME}
    )
    num_replicas: Count | None = Field(default=None, description="A fixed number of replicas.")
    autoscaling_config: Autoscaling | None = Field(default=None, description="Bounds between which Serve scales.")
    max_ongoing_requests: Count | None = Field(default=None, description="Requests that a replica handles at once.")
    max_queued_requests: Annotated[int, AfterValidator(_queue_limit)] | None = Field(
        default=None, description="Requests that wait per caller; -1 for no limit."
    )
    backpressure_config: Backpressure | None = None
    user_config: dict[str, Any] | None = Field(
        default=None, description="Passed to `reconfigure`; changes without a restart, hence without a rollout."
    )
    graceful_shutdown_wait_loop_s: NonNegative | None = None
    health_check_period_s: Positive | None = None
    health_check_timeout_s: Positive | None = None
    ray_actor_options: RayActorOptions | None = None
    placement_group_bundles: Annotated[list[dict[str, NonNegative]], Field(min_length=1)] | None = None
    placement_group_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] | None = None
    placement_group_bundle_label_selector: list[Selector] | None = None
    max_replicas_per_node: Annotated[int, Field(ge=1, le=100)] | None = None
    logging_config: Logging | None = None
    request_router_config: RequestRouter | None = None
    deployment_actors: list[DeploymentActor] | None = None
    rolling_update_percentage: Annotated[float, Field(gt=0, le=1)] | None = None
    max_surge_percent: Annotated[int, Field(ge=0, le=100)] | None = None


class Application(StrictModel):
    """A Ray Serve application as in a Serve config file."""

    refused: ClassVar[dict[str, str]] = {
        "name": "Heliostat names the application: leave it out; the service's name is metadata.name",
        "route_prefix": "Heliostat routes to the application: leave it out and write spec.route",
        "external_scaler_enabled": "Heliostat sets it itself: leave it out",
        "host": "Serve's proxies are the cluster's: leave it out",
        "port": "Serve's proxies are the cluster's: leave it out",
        "autoscaling_policy": "Serve does not support it yet: write a policy in a deployment's autoscaling_config",
        "working_dir": "write runtime_env: {working_dir: ...}",
        "env_vars": "write runtime_env: {env_vars: ...}",
        "num_replicas": "write deployments: [{name: ..., num_replicas: ...}]",
    }

    import_path: Annotated[str, AfterValidator(_import_path)] = Field(
        description='What to deploy, as "module:attribute": an application or a function that builds one.',
        json_schema_extra={"pattern": IMPORT_PATH},
    )
    args: dict[str, Any] | None = Field(default=None, description="Arguments for the function that builds it.")
    runtime_env: dict[str, Any] | None = Field(
        default=None,
        description="Ray's runtime environment. A relative working_dir or py_modules entry is a folder of the commit, "
        "relative to this file.",
    )
    deployments: list[Deployment] | None = Field(
        default=None, description="Options per deployment. One that is not listed runs as in the code."
    )
    logging_config: Logging | None = None
