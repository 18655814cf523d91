"""How the daemon tells what it does: logs for people and machines, traces of each tick, metrics."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reconciler.metrics import Metrics, TickSeen, Timed
from reconciler.settings import LogFormat, Settings
from specs.decisions import Hold

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

CHATTY = ("httpx", "httpcore", "git", "watchfiles", "asyncio", "uvicorn")
"""Libraries that log every request or start; what matters of it is in our own lines and metrics."""

SECRET_NAMES = re.compile(r"token|secret|password|passwd|authorization|credential|api_?key", re.IGNORECASE)
CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)[^/\s@]+@", re.IGNORECASE)
BEARER = re.compile(r"(?P<kind>bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
MASK = "********"

OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

__all__ = ["Metrics", "setup_logging", "setup_tracing"]


def setup_logging(settings: Settings) -> None:
    """Write logs to stderr: for people on a terminal, else one JSON object a line. Libraries' logs included."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level.value),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(settings.log_format, is_terminal=sys.stderr.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.value.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def hide_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Mask what is called a secret, and credentials inside of texts (a repository's URL, say)."""
    return {name: MASK if SECRET_NAMES.search(name) else _masked(value) for name, value in event.items()}


def _masked(value: Any) -> Any:
    match value:
        case str():
            return BEARER.sub(rf"\g<kind> {MASK}", CREDENTIALS.sub(rf"\g<scheme>{MASK}@", value))
        case Mapping():
            return {key: MASK if SECRET_NAMES.search(str(key)) else _masked(item) for key, item in value.items()}
        case list() | tuple():
            return [_masked(item) for item in value]
        case _:
            return value


def _renderers(log_format: LogFormat, *, is_terminal: bool) -> list[Processor]:
    for_people = log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and is_terminal)
    if not for_people:
        return [structlog.processors.format_exc_info, hide_secrets, structlog.processors.JSONRenderer(default=str)]
    has_colours = is_terminal and not os.environ.get("NO_COLOR")
    plain = structlog.dev.plain_traceback
    return [
        structlog.processors.format_exc_info,
        hide_secrets,
        structlog.dev.ConsoleRenderer(colors=has_colours, exception_formatter=plain, pad_event_to=24),
    ]


def setup_tracing(environ: Mapping[str, str] = os.environ) -> Callable[[TickSeen], None]:
    """Return what traces a tick. Without an OTLP endpoint in the environment nothing is even imported."""
    wanted = any(environ.get(name) for name in OTLP_ENDPOINTS)
    if not wanted or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return lambda tick: None
    tracer = _otlp_tracer()
    return lambda tick: trace_tick(tracer, tick)


@cache
def _otlp_tracer() -> Tracer:
    """Return the one tracer that exports by OTLP over HTTP, configured by the standard variables."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Resource.create lets OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win only over what is not given here.
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "heliostat"}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("heliostat")


def trace_tick(tracer: Tracer, tick: TickSeen) -> None:
    """Export one span for the tick and one below it for each phase."""
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    timings = tick.timings if isinstance(tick, Timed) else {}
    end = time.time_ns()
    start = end - _nanoseconds(sum(timings.values(), timedelta()))
    span = tracer.start_span("tick", start_time=start, attributes=_attributes(tick))
    for service, (reason, message) in tick.results.problems.items():
        span.add_event("problem", {"service": service, "reason": reason.value, "message": message}, timestamp=end)
    if tick.results.problems:
        span.set_status(Status(StatusCode.ERROR))
    for phase, duration in timings.items():
        child = tracer.start_span(phase, context=set_span_in_context(span), start_time=start)
        start += _nanoseconds(duration)
        child.end(end_time=start)
    span.end(end_time=end)


def _attributes(tick: TickSeen) -> dict[str, str | bool | int]:
    decisions = [decision for group in tick.plan.decisions.values() for decision in group]
    return {
        "heliostat.cluster": tick.status.cluster,
        "heliostat.commit": tick.status.commit or "",
        "heliostat.complete": tick.world.observed.complete,
        "heliostat.services": len(tick.status.services),
        "heliostat.decisions": sum(1 for decision in decisions if not isinstance(decision, Hold)),
        "heliostat.effects": len(list(tick.results.done)),
        "heliostat.saved": tick.results.is_saved,
    }


def _nanoseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1) * 1000
