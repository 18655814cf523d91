"""The Service of a spec file: what users write, field by field."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic.config import JsonDict

from specs.amount import Amount
from specs.analysis_spec import AnalysisSpec, AnalysisStep
from specs.compaction_spec import CompactionSpec
from specs.placement_spec import PlacementSpec
from specs.routes import CLIENT_NAME, HEADER_VALUE
from specs.serve_application import Application
from specs.strict import CamelModel, CountOrShare, Duration

GROUP = "heliostat.dev"
API_VERSION = "heliostat.dev/v1alpha1"
PRUNE = f"{GROUP}/prune"
"""The annotation that keeps a service in the cluster when it leaves the repository."""

MAX_NAME = 40
"""A cell's name holds the service's name, revision, zone, market and generation."""

MAX_ROUTE = 200
MAX_STEPS = 100
MAX_MATCHES = 8
"""All of them become one regular expression of the gateway, read for each request of the service."""

MAX_WINDOW = 20
"""Each revision in the window is kept recreatable, code included."""

MAX_DEPENDENCIES = 100
MAX_GATES = 20
MAX_STAGED = 16
MAX_URI = 2048
WEIGHTS_SCHEMES = ("s3", "gs", "az", "https", "http")
LONGEST_REQUEST = timedelta(days=20)
"""Time-outs of the gateway count milliseconds in 31 bits."""

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
ROUTE = r"^/$|^(/[A-Za-z0-9._~-]+)+$"
RESERVED_SEGMENTS = ("_", "-")
"""First segments of routes that the gateway and Serve keep for themselves."""


def _name(value: str) -> str:
    if not re.fullmatch(NAME, value) or len(value) > MAX_NAME:
        raise ValueError(
            f"{value!r} is not a DNS label of at most {MAX_NAME} characters: write lower-case letters, digits and "
            "dashes, starting and ending with a letter or digit"
        )
    return value


def _annotations(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if name.startswith(f"{GROUP}/") and (name, text) != (PRUNE, "disabled"):
            raise ValueError(f"{name}: {text} is not known here: write {PRUNE}: disabled, or leave it out")
    return value


def _labels(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not key or len(key) > 253 or len(text) > 253:
            raise ValueError(f"the label {key[:40]!r} is empty or longer than 253 characters: write a shorter one")
    return value


def route_problem(route: str) -> str | None:
    """Return why `route` cannot be a public path prefix and what to write instead; None when it can."""
    segments = route.split("/")[1:]
    if not route.startswith("/"):
        return f'the route {route!r} does not start with "/": write "/{route[:MAX_ROUTE]}"'
    if "?" in route or "#" in route:
        return f"the route {route!r} holds a query or fragment: write the path only"
    if route != "/" and route.endswith("/"):
        return f'the route {route!r} ends in "/": write "{route.rstrip("/") or "/"}"'
    if any(segment in (".", "..") for segment in segments):
        return f"the route {route!r} holds a dot segment: write the path that it stands for"
    if segments[0] in RESERVED_SEGMENTS:
        return f'routes under "/{segments[0]}" are reserved for Heliostat and Serve: write another first segment'
    if not re.fullmatch(ROUTE, route) or len(route) > MAX_ROUTE:
        return (
            f"the route {route[:MAX_ROUTE]!r} is not a plain path of at most {MAX_ROUTE} characters: write segments of "
            'letters, digits, ".", "_", "~" and "-", such as "/chat" or "/v1/chat"'
        )
    return None


def _route(value: str) -> str:
    if problem := route_problem(value):
        raise ValueError(problem)
    return value


def _request_duration(value: timedelta) -> timedelta:
    if not timedelta(seconds=1) <= value <= LONGEST_REQUEST:
        raise ValueError("maxRequestDuration must be between 1s and 480h: write for instance 10m")
    return value


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("this must be longer than 0: write for instance 10m")
    return value


def _share_of_target(value: Amount) -> Amount:
    if value.is_percent and value.value > 100:
        raise ValueError(f"{value} is more than everything: write at most 100%")
    return value


def _names_once(value: tuple[str, ...]) -> tuple[str, ...]:
    doubled = next((name for name in value if value.count(name) > 1), None)
    if doubled is not None:
        raise ValueError(f"{doubled!r} is listed twice: write each name once")
    return value


ServiceName = Annotated[str, AfterValidator(_name)]
PolicyName = Annotated[str, AfterValidator(_name)]


class Metadata(CamelModel):
    """What a service is called."""

    refused: ClassVar[dict[str, str]] = {
        "namespace": "a service belongs to the cluster whose daemon reads this repository: leave it out",
    }

    name: Annotated[str, AfterValidator(_name)] = Field(
        description="The service's name, unique in the cluster: a DNS label of at most 40 characters.",
        json_schema_extra={"pattern": NAME, "maxLength": MAX_NAME},
    )
    labels: Annotated[dict[str, str], AfterValidator(_labels)] = Field(
        default_factory=dict, description="Free labels, shown in status."
    )
    annotations: Annotated[dict[str, str], AfterValidator(_annotations)] = Field(
        default_factory=dict,
        description=f"Notes of other tools, and {PRUNE}: disabled, which keeps a service that leaves the repository.",
    )


class PauseStep(CamelModel):
    """How long a pause takes."""

    duration: Duration | None = Field(
        default=None, description="How long to wait; without it, until `heliostat promote`."
    )


def _client_name(value: str) -> str:
    if not re.fullmatch(CLIENT_NAME, value):
        raise ValueError(
            f"{value[:MAX_ROUTE]!r} is not a name that the gateway looks for: write at most 64 letters, digits, dots, "
            "dashes and underscores"
        )
    return value


def _header_value(value: str) -> str:
    if not re.fullmatch(HEADER_VALUE, value):
        raise ValueError(
            f"{value[:MAX_ROUTE]!r} is not a value that the gateway looks for: write at most 256 letters, digits, "
            'inner spaces and any of "._~:/@+=,-"'
        )
    return value


ClientName = Annotated[str, AfterValidator(_client_name)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
NAMED: JsonDict = {"pattern": f"^{CLIENT_NAME}$"}
VALUED: JsonDict = {"pattern": f"^{HEADER_VALUE}$"}


class HeaderValueSpec(CamelModel):
    """What a header is to be: exactly one of `exact` and `prefix`."""

    refused: ClassVar[dict[str, str]] = {
        "regex": "one service's regular expression could stall the requests of all: write exact or prefix"
    }

    exact: HeaderValue | None = Field(
        default=None, description="The header is this, letter by letter.", json_schema_extra=VALUED
    )
    prefix: HeaderValue | None = Field(
        default=None, description="The header begins with this.", json_schema_extra=VALUED
    )


class HeaderMatchSpec(CamelModel):
    """One header that asks for the new revision."""

    header_name: ClientName = Field(description="The header's name, in any case.", json_schema_extra=NAMED)
    header_value: HeaderValueSpec = Field(description="What it is to be.")


class HeaderRouteSpec(CamelModel):
    """Requests that see the new revision whatever its weight."""

    name: ClientName = Field(
        default="header-route",
        description="A later step of the same name takes its place.",
        json_schema_extra=NAMED,
    )
    match: tuple[HeaderMatchSpec, ...] = Field(
        default=(),
        strict=False,
        max_length=MAX_MATCHES,
        description="Any of these will do. None: the route of this name ends.",
    )


class StickySpec(CamelModel):
    """By what a client is known: exactly one of `cookie` and `header`."""

    cookie: ClientName | None = Field(
        default=None,
        description="A cookie of this name, with a random id, that the gateway sets and takes back afterwards.",
        json_schema_extra=NAMED,
    )
    header: ClientName | None = Field(
        default=None, description="A header that clients send; without it the dice decide.", json_schema_extra=NAMED
    )


class StepSpec(CamelModel):
    """One step of a rollout: exactly one of `setWeight`, `pause`, `analysis` and `setHeaderRoute`."""

    refused: ClassVar[dict[str, str]] = {
        "setMirrorRoute": "requests are not mirrored, since a mirrored one is executed twice: write setHeaderRoute, "
        "which sends chosen requests to the new revision"
    }

    set_weight: int | None = Field(
        default=None, ge=1, le=100, description="Percent of the requests that the new revision gets."
    )
    pause: PauseStep | None = Field(default=None, description="Wait: {} until `promote`, or {duration: 60s}.")
    analysis: AnalysisStep | None = Field(
        default=None, description="Wait for a verdict on the new revision's requests: {} or {duration: 5m}."
    )
    set_header_route: HeaderRouteSpec | None = Field(
        default=None, description="From here on, requests with a header that matches go to the new revision."
    )


DEFAULT_STEPS = tuple(
    step
    for weight in (10, 25, 50)
    for step in (StepSpec(setWeight=weight), StepSpec(pause=PauseStep(duration=timedelta(seconds=60))))
)


def _hook(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_sound = False
    if not is_sound or not value.isascii() or any(character <= " " for character in value):
        raise ValueError("this is no address to call: write a URL such as https://hooks.example.com/rollouts")
    if "@" in parts.netloc:
        raise ValueError("a URL in Git must not hold credentials: leave out what stands before the @")
    return value


def _timeout(value: timedelta) -> timedelta:
    if not timedelta(milliseconds=100) <= value <= timedelta(minutes=5):
        raise ValueError("the timeout of a gate must be between 100ms and 5m: write for instance 10s")
    return value


def _interval(value: timedelta) -> timedelta:
    if value < timedelta(seconds=1):
        raise ValueError("others are asked at most once a second: write for instance 1m")
    return value


class GateSpec(CamelModel):
    """Somebody else who is asked, or told, at a point of the rollout, by a POST with a small JSON document."""

    name: Annotated[str, AfterValidator(_name)] = Field(
        description="What the gate is called in status and events; unique in the service.",
        json_schema_extra={"pattern": NAME, "maxLength": MAX_NAME},
    )
    at: Literal["beforeStep", "beforePromotion", "afterRollback"] = Field(
        description="Before each setWeight step, before the way to 100%, or after a rollback."
    )
    kind: Literal["confirm", "notify"] = Field(
        description="confirm: the rollout waits for a 2xx answer. notify: it is told, and nothing waits."
    )
    url: Annotated[str, AfterValidator(_hook)] = Field(
        description="Where to POST. The daemon's settings must allow the host (--allow-host)."
    )
    timeout: Annotated[Duration, AfterValidator(_timeout)] = Field(
        default=timedelta(seconds=10), description="How long one call may take."
    )
    retries: int = Field(
        default=3, ge=0, le=10, description="Further tries, later and later, when a call gets no answer or a 5xx."
    )
    interval: Annotated[Duration, AfterValidator(_interval)] = Field(
        default=timedelta(minutes=1), description="When to ask again after a no, or after all tries got no answer."
    )


def _weights_uri(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_sound = parts.scheme in WEIGHTS_SCHEMES and bool(parts.netloc) and (parts.port or 1) > 0
    except ValueError:
        is_sound = False
    if not is_sound or len(value) > MAX_URI or any(not " " < character < "\x7f" for character in value):
        raise ValueError(
            "these are no weights that nodes could fetch: write a URI such as s3://models/chat/model.safetensors "
            f"({', '.join(WEIGHTS_SCHEMES)}), a remote folder with a slash at its end"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "a URI in Git must not hold credentials or a signature: name an object that nodes reach with credentials "
            "of their own, without what stands before an @ or after a ? or #"
        )
    return value


def _uris_once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("the same URI is listed twice: write each once")
    return value


class LoadingSpec(CamelModel):
    """What replicas load before they can serve."""

    stage: Annotated[tuple[Annotated[str, AfterValidator(_weights_uri)], ...], AfterValidator(_uris_once)] = Field(
        default=(),
        strict=False,
        max_length=MAX_STAGED,
        description="URIs of weights (a .safetensors file, an index, or a folder) that are put into the caches of the "
        "nodes where the revision may run, from the start of its rollout on. Nothing waits for it.",
    )


class RolloutSpec(CamelModel):
    """How a new revision replaces the old one."""

    steps: tuple[StepSpec, ...] = Field(
        default=DEFAULT_STEPS,
        strict=False,
        max_length=MAX_STEPS,
        description="Steps on the way to 100%. Default: 10, 25 and 50 percent with a minute after each.",
    )
    policy: PolicyName = Field(
        default="steps",
        description="Who decides how far a new revision goes: steps, or a policy that the daemon's settings enable.",
        json_schema_extra={"pattern": NAME, "maxLength": MAX_NAME},
    )
    rollback_policy: PolicyName = Field(
        default="failures",
        description="Who decides whether a new revision is taken back: failures, or a policy that is enabled.",
        json_schema_extra={"pattern": NAME, "maxLength": MAX_NAME},
    )
    max_surge: CountOrShare = Field(
        default=Amount(value=25, is_percent=True),
        description="Live replicas above the target at any moment, stopping ones included. Percentages round up.",
    )
    max_unavailable: Annotated[CountOrShare, AfterValidator(_share_of_target)] = Field(
        default=Amount(value=0),
        description="Serving replicas below the target at any moment. Percentages round down.",
    )
    min_ready: Duration = Field(
        default=timedelta(seconds=10), description="A replica counts as ready after being ready for this long."
    )
    progress_deadline: Annotated[Duration, AfterValidator(_positive)] = Field(
        default=timedelta(minutes=10), description="No progress for this long means failed; pauses do not count."
    )
    scale_down_delay: Duration = Field(
        default=timedelta(seconds=30), description="The old revision stays warm for this long after 100%."
    )
    rollback_window: int = Field(
        default=3,
        ge=0,
        le=MAX_WINDOW,
        description="Going back to one of so many earlier good revisions skips steps and analysis; older ones do not.",
    )
    bake: Duration = Field(
        default=timedelta(0),
        description="Watch window after 100%: the old revision stays warm, and a regression still rolls back to it.",
    )
    sticky: StickySpec | None = Field(
        default=None, description="A client stays on its version during the steps, by a cookie or a header."
    )
    auto_rollback: bool = Field(default=True, description="false: freeze and report instead of rolling back.")
    on_inconclusive: Literal["hold", "promote"] = Field(
        default="hold",
        description="What an analysis step that has seen too few requests does when its time is over.",
    )
    gates: tuple[GateSpec, ...] = Field(
        default=(), strict=False, max_length=MAX_GATES, description="Others who are asked or told during a rollout."
    )


class ServiceSpec(CamelModel):
    """What a service is to be."""

    refused: ClassVar[dict[str, str]] = {
        "name": "write metadata.name",
        "labels": "write metadata.labels",
        "route_prefix": "write route",
        "steps": "write rollout.steps",
    }

    route: Annotated[str, AfterValidator(_route)] | None = Field(
        default=None,
        description='The public path prefix, unique in the cluster. Default: "/" and the service\'s name.',
        json_schema_extra={"pattern": ROUTE, "maxLength": MAX_ROUTE},
    )
    suspend: bool = Field(default=False, description="true: freeze capacity and weights as they are.")
    max_request_duration: Annotated[Duration, AfterValidator(_request_duration)] = Field(
        default=timedelta(minutes=10),
        description="The longest request that is never cut by a move (streams and WebSockets included).",
    )
    group: ServiceName | None = Field(
        default=None, description="Services of one group that change in one commit are rolled back together."
    )
    depends_on: Annotated[tuple[ServiceName, ...], AfterValidator(_names_once)] = Field(
        default=(),
        strict=False,
        max_length=MAX_DEPENDENCIES,
        description="Services that must be healthy at their own wanted revision before a rollout of this one starts.",
    )
    application: Application = Field(
        description="A Ray Serve application as in a Serve config file, without name and route_prefix."
    )
    loading: LoadingSpec = Field(
        default=LoadingSpec(), description="Weights that are brought to nodes ahead of the replicas."
    )
    rollout: RolloutSpec = Field(default=RolloutSpec(), description="The way from one revision to the next.")
    analysis: AnalysisSpec | None = Field(
        default=None,
        description="Judge the new revision by its requests at every step. Without it, analysis steps alone do.",
    )
    compaction: CompactionSpec = Field(
        default=CompactionSpec(), description="Whether its replicas may be moved to free nodes."
    )
    placement: PlacementSpec = Field(
        default=PlacementSpec(), description="Where replicas are to be. Nothing set: wherever Ray puts them."
    )


class Service(CamelModel):
    """One Ray Serve application that Heliostat rolls out."""

    refused: ClassVar[dict[str, str]] = {"status": "status is reported, never written: leave it out"}

    api_version: Literal["heliostat.dev/v1alpha1"] = Field(description="The version of this schema.")
    kind: Literal["Service"]
    metadata: Metadata
    bases: tuple[str, ...] = Field(
        default=(),
        strict=False,
        max_length=10,
        description="Files with a Service or ServiceBase, relative to this one, that this document is laid on.",
    )
    variables: tuple[str, ...] = Field(
        default=(),
        strict=False,
        max_length=10,
        description="Files of kind Variables, relative to this one, whose values take the place of $(NAME).",
    )
    spec: ServiceSpec
