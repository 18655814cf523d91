"""Serve's own rules for the applications of a document, as far as they are knowable without running code.

Serve checks some of these when it accepts a document and others only afterwards, on the live application: an
invalid override answers 200 and then takes the application down. Everything is therefore checked before.
The rules are those of Ray 2.60's `ServeDeploySchema` and of what its controller builds from it; types are
strict, where Serve would turn "3" into 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlparse

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from specs.selectors import is_choice, is_label_key

PACKAGE_PROTOCOLS = frozenset({"gcs", "http", "https", "s3", "gs", "azure", "abfss", "file", "local"})

AUTO_MAX_REPLICAS = 100
"""`num_replicas: auto` starts from these bounds: 1 to 100. Without it `max_replicas` is 1 by default."""

LOG_LEVELS = ("NOTSET", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


def _labels(selector: dict[str, str]) -> dict[str, str]:
    for key, choice in selector.items():
        if not is_label_key(key):
            raise ValueError(f"{key!r} is not a label key such as ray.io/availability-zone")
        if not is_choice(choice):
            raise ValueError(f"{choice!r} does not choose a label value; write value, !value or in(one, two)")
    return selector


def _resources(resources: dict[str, float]) -> dict[str, float]:
    for name, amount in resources.items():
        _amount(name, amount)
        if name in ("CPU", "GPU"):
            raise ValueError(f"write num_{name.lower()}s instead of {name} in resources")
    return resources


def _amount(name: str, amount: float | None) -> None:
    if amount is None:
        return
    if amount < 0:
        raise ValueError(f"{name} must not be negative")
    if 0 < amount < 0.0001:
        raise ValueError(f"{name} is measured in steps of 0.0001")
    if name in ("num_gpus", "GPU") and amount > 1 and amount != int(amount):
        raise ValueError("num_gpus above 1 must be a whole number")


def _package(uri: str) -> str:
    # A URI may hold a password: it is not repeated.
    parsed = urlparse(uri)
    if parsed.scheme not in PACKAGE_PROTOCOLS:
        known = ", ".join(sorted(PACKAGE_PROTOCOLS))
        raise ValueError(f"not the URI of a package ({known}://...)")
    if parsed.scheme == "local" and not uri.startswith("local:///"):
        raise ValueError("a local URI names an absolute path, as in local:///path/in/image")
    return uri


def _import_path(path: str) -> str:
    separator = ":" if ":" in path else "."
    if path.count(":") > 1 or separator not in path or path.startswith(separator) or path.endswith(separator):
        raise ValueError(f"{path!r} must be of the form package.module:attribute")
    return path


def _route_prefix(prefix: str | None) -> str | None:
    if prefix is None:
        return None
    if not prefix.startswith("/") or (len(prefix) > 1 and prefix.endswith("/")) or set("{}") & set(prefix):
        raise ValueError(f"{prefix!r} must start with /, must not end with it, and has no braces")
    return prefix


def _queue_limit(limit: int) -> int:
    if limit < 1 and limit != -1:
        raise ValueError("max_queued_requests is -1 (no limit) or at least 1")
    return limit


def _log_level(level: int | str) -> int | str:
    if level not in LOG_LEVELS and level not in (0, 10, 20, 30, 40, 50):
        raise ValueError(f"log_level is one of {', '.join(LOG_LEVELS)}")
    return level


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    return value


Labels = Annotated[dict[str, str], AfterValidator(_labels)]
Count = Annotated[int, BeforeValidator(_not_bool), Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(gt=0)]
ImportPath = Annotated[str, AfterValidator(_import_path)]
PackageUri = Annotated[str, AfterValidator(_package)]


class RuntimeEnv(_Strict):
    """The environment in which an application or a deployment runs."""

    working_dir: PackageUri | None = None
    py_modules: list[PackageUri | None] = Field(default_factory=list)
    env_vars: dict[str, str] | None = None
    pip: Any = None
    uv: Any = None
    conda: Any = None
    container: dict[str, Any] | None = None
    image_uri: str | None = None

    @model_validator(mode="after")
    def one_installer(self) -> Self:
        """Ray takes one way of installing packages, and none beside an image."""
        installers = [name for name in ("pip", "uv", "conda") if getattr(self, name) is not None]
        if len(installers) > 1:
            raise ValueError(f"{' and '.join(installers)} exclude each other")
        return self


class FallbackOption(_Strict):
    """One entry of `fallback_strategy`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    label_selector: Labels


class ActorOptions(_Strict):
    """What a replica needs and where it may run."""

    runtime_env: RuntimeEnv = Field(default_factory=RuntimeEnv)
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: Annotated[dict[str, float], AfterValidator(_resources)] = Field(default_factory=dict)
    accelerator_type: str | None = None
    label_selector: Labels | None = None
    fallback_strategy: list[FallbackOption] | None = None

    @model_validator(mode="after")
    def amounts(self) -> Self:
        """Check the amounts by Ray's own rules."""
        for name in ("num_cpus", "num_gpus", "memory"):
            _amount(name, getattr(self, name))
        return self


class AutoscalingPolicy(_Strict):
    """A scaling function of the application's own."""

    policy_function: str | None = None
    policy_kwargs: dict[str, Any] = Field(default_factory=dict)


class Autoscaling(_Strict):
    """`autoscaling_config`; `max_replicas` is None when not given, its default depends on `num_replicas`."""

    min_replicas: Annotated[int, BeforeValidator(_not_bool), Field(ge=0)] = 1
    initial_replicas: Annotated[int, BeforeValidator(_not_bool), Field(ge=0)] | None = None
    max_replicas: Count | None = None
    target_ongoing_requests: Factor | None = None
    metrics_interval_s: PositiveSeconds = 10.0
    look_back_period_s: PositiveSeconds = 30.0
    smoothing_factor: Factor = 1.0
    upscale_smoothing_factor: Factor | None = None
    downscale_smoothing_factor: Factor | None = None
    upscaling_factor: Factor | None = None
    downscaling_factor: Factor | None = None
    downscale_delay_s: Seconds = 600.0
    downscale_to_zero_delay_s: Seconds | None = None
    upscale_delay_s: Seconds = 30.0
    aggregation_function: Literal["mean", "max", "min"] = "mean"
    policy: AutoscalingPolicy = Field(default_factory=AutoscalingPolicy)

    def check_bounds(self, *, default_max: int) -> None:
        """Raise ValueError unless min <= initial <= max."""
        most = default_max if self.max_replicas is None else self.max_replicas
        if most < self.min_replicas:
            raise ValueError(f"max_replicas ({most}) is below min_replicas ({self.min_replicas})")
        if self.initial_replicas is not None and not self.min_replicas <= self.initial_replicas <= most:
            raise ValueError(
                f"initial_replicas ({self.initial_replicas}) is not between min_replicas ({self.min_replicas}) "
                f"and max_replicas ({most})"
            )


class Backpressure(_Strict):
    """The answer to requests above `max_queued_requests`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    status_code: Literal[503, 429] = 503
    retry_after_s: Seconds | None = None


class Logging(_Strict):
    """How an application or a deployment logs."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    encoding: Literal["TEXT", "JSON"] = "TEXT"
    log_level: Annotated[int | str, AfterValidator(_log_level)] = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = True
    additional_log_standard_attrs: list[str] = Field(default_factory=list)


class RequestRouter(_Strict):
    """How callers choose a replica."""

    request_router_class: str = ""
    request_router_kwargs: dict[str, Any] = Field(default_factory=dict)
    request_routing_stats_period_s: PositiveSeconds = 10.0
    request_routing_stats_timeout_s: PositiveSeconds = 30.0
    initial_backoff_s: PositiveSeconds = 0.025
    backoff_multiplier: Factor = 2.0
    max_backoff_s: PositiveSeconds = 0.5


class Gang(_Strict):
    """Replicas that start and fail together."""

    gang_size: Count
    gang_placement_strategy: Literal["PACK", "SPREAD"] = "PACK"
    runtime_failure_policy: Literal["RESTART_GANG"] = "RESTART_GANG"


class DeploymentActor(_Strict):
    """An actor that the replicas of a deployment share."""

    name: str
    actor_class: str
    init_args: list[Any] = Field(default_factory=list)
    init_kwargs: dict[str, Any] = Field(default_factory=dict)
    actor_options: dict[str, Any] = Field(default_factory=dict)


class Deployment(_Strict):
    """The overrides of one deployment."""

    name: str
    num_replicas: Count | Literal["auto"] | None = None
    max_ongoing_requests: Count = 5
    max_queued_requests: Annotated[int, BeforeValidator(_not_bool), AfterValidator(_queue_limit)] = -1
    backpressure_config: Backpressure = Field(default_factory=Backpressure)
    user_config: dict[str, Any] | None = None
    autoscaling_config: Autoscaling | None = None
    graceful_shutdown_wait_loop_s: Seconds = 2.0
    graceful_shutdown_timeout_s: Seconds = 20.0
    health_check_period_s: PositiveSeconds = 10.0
    health_check_timeout_s: PositiveSeconds = 30.0
    ray_actor_options: ActorOptions = Field(default_factory=ActorOptions)
    placement_group_bundles: Annotated[list[dict[str, Seconds]], Field(min_length=1)] | None = None
    placement_group_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] | None = None
    placement_group_bundle_label_selector: list[Labels] | None = None
    max_replicas_per_node: Annotated[int, BeforeValidator(_not_bool), Field(ge=1, le=100)] | None = None
    logging_config: Logging = Field(default_factory=Logging)
    request_router_config: RequestRouter = Field(default_factory=RequestRouter)
    gang_scheduling_config: Gang | None = None
    deployment_actors: list[DeploymentActor] | None = None
    rolling_update_percentage: Annotated[float, Field(gt=0, le=1)] = 0.2
    max_surge_percent: Annotated[int, BeforeValidator(_not_bool), Field(ge=0, le=100)] = 0

    @property
    def is_autoscaled(self) -> bool:
        """Return whether the config itself asks for autoscaling."""
        return self.num_replicas == "auto" or self.autoscaling_config is not None

    @model_validator(mode="after")
    def scale(self) -> Self:
        """A count or bounds, and bounds in order."""
        if isinstance(self.num_replicas, int) and self.autoscaling_config is not None:
            raise ValueError("num_replicas and autoscaling_config exclude each other")
        if self.autoscaling_config is not None:
            self.autoscaling_config.check_bounds(default_max=AUTO_MAX_REPLICAS if self.num_replicas == "auto" else 1)
        return self

    @model_validator(mode="after")
    def bundles(self) -> Self:
        """Placement groups exclude what they decide themselves, and the replica must fit the first bundle."""
        bundles, selectors = self.placement_group_bundles, self.placement_group_bundle_label_selector
        if bundles is None:
            if selectors is not None:
                raise ValueError("placement_group_bundle_label_selector needs placement_group_bundles")
            return self
        if self.max_replicas_per_node is not None:
            raise ValueError("max_replicas_per_node and placement_group_bundles exclude each other")
        if selectors is not None and len(selectors) not in (1, len(bundles)):
            raise ValueError("placement_group_bundle_label_selector has one selector, or one per bundle")
        for name, amount in _demand(self.ray_actor_options):
            if amount > bundles[0].get(name, 0.0):
                raise ValueError(f"the replica needs {amount:g} {name}, more than its first bundle has")
        return self

    @model_validator(mode="after")
    def gangs(self) -> Self:
        """A gang decides placement itself; counts are whole gangs."""
        gang = self.gang_scheduling_config
        if gang is None:
            return self
        if self.max_replicas_per_node is not None or self.placement_group_strategy is not None:
            raise ValueError("gang_scheduling_config excludes max_replicas_per_node and placement_group_strategy")
        counts = [self.num_replicas] if isinstance(self.num_replicas, int) else []
        if (bounds := self.autoscaling_config) is not None:
            set_bounds = (bounds.min_replicas, bounds.max_replicas, bounds.initial_replicas)
            counts += [count for count in set_bounds if count is not None]
        if any(count % gang.gang_size for count in counts):
            raise ValueError(f"counts must be multiples of gang_size ({gang.gang_size})")
        return self

    @model_validator(mode="after")
    def actors(self) -> Self:
        """The actors of a deployment have names of their own."""
        if twice := _twice(actor.name for actor in self.deployment_actors or ()):
            raise ValueError(f"deployment_actors name {', '.join(twice)} twice")
        return self


class Application(_Strict):
    """One application of the document."""

    name: Annotated[str, Field(min_length=1)] = "default"
    route_prefix: Annotated[str | None, AfterValidator(_route_prefix)] = "/"
    import_path: ImportPath
    runtime_env: RuntimeEnv = Field(default_factory=RuntimeEnv)
    deployments: list[Deployment] = Field(default_factory=list)
    autoscaling_policy: dict[str, Any] | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    logging_config: Logging | None = None
    external_scaler_enabled: bool = False

    @model_validator(mode="before")
    @classmethod
    def no_address(cls, value: Any) -> Any:
        """The address belongs to the whole of Serve."""
        if isinstance(value, dict) and {"host", "port"} & set(value):
            raise ValueError("host and port are set for all of Serve, not per application")
        return value

    @model_validator(mode="after")
    def deployment_names(self) -> Self:
        """Serve applies both of two entries with one name, the later one over the earlier."""
        if twice := _twice(deployment.name for deployment in self.deployments):
            raise ValueError(f"deployments name {', '.join(twice)} twice")
        return self

    @model_validator(mode="after")
    def one_scaler(self) -> Self:
        """Either Serve scales an application or somebody else does."""
        scaled = [deployment.name for deployment in self.deployments if deployment.is_autoscaled]
        if self.external_scaler_enabled and scaled:
            raise ValueError(f"external_scaler_enabled excludes autoscaling, which {', '.join(scaled)} asks for")
        return self


class TopLevel(_Strict):
    """The document's fields beside its applications."""

    proxy_location: Literal["Disabled", "HeadOnly", "EveryNode"] = "EveryNode"
    http_options: dict[str, Any] = Field(default_factory=dict)
    grpc_options: dict[str, Any] = Field(default_factory=dict)
    target_capacity: Annotated[float, Field(ge=0, le=100)] | None = None


def problems_of(model: type[BaseModel], value: Any, where: str) -> list[str]:
    """Return what is wrong with `value`, each problem with its place. Values are not repeated: secrets may be."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        return [_say(problem["loc"], problem["msg"], where) for problem in error.errors(include_input=False)]
    return []


def _say(steps: Sequence[int | str], message: str, where: str) -> str:
    # Members of unions are no places that a reader could find.
    places = [str(step) for step in steps if not (isinstance(step, str) and ("[" in step or step in ("int", "str")))]
    return f"{'.'.join([where, *places])}: {message.removeprefix('Value error, ')}"


def _demand(options: ActorOptions) -> Iterable[tuple[str, float]]:
    yield "CPU", 1.0 if options.num_cpus is None else options.num_cpus
    yield "GPU", options.num_gpus or 0.0
    yield from options.resources.items()


def _twice(names: Iterable[str]) -> list[str]:
    return sorted({one for one, other in pairwise(sorted(names)) if one == other})
