"""Where a replica's cold start goes: phases one after another, as a line in the log and as an OpenTelemetry trace.

cold_start = ColdStart("chat")      # in the replica's constructor, before what takes long to import
import torch
cold_start.phase("fetch")           # ends "import", begins "fetch"
...
cold_start.ready()
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

LOG = logging.getLogger(__name__)

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of the start, in nanoseconds since 1970."""

    name: str
    began: int
    ended: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began) / 1e9


class ColdStart:
    """A replica's start. Phases follow each other without gaps, so that nothing hides between them."""

    def __init__(self, name: str, first: str = "import", log: logging.Logger = LOG) -> None:
        """Begin the first phase now. `log` gets the line, as a warning: `ray.serve` is what Serve keeps per replica."""
        self.name = name
        self._log = log
        self.phases: list[Phase] = []
        self._current, self._began = first, time.time_ns()
        self._is_ready = False

    def phase(self, name: str) -> None:
        """End the phase before, and begin this one."""
        now = time.time_ns()
        self.phases.append(Phase(name=self._current, began=self._began, ended=now))
        self._current, self._began = name, now

    def ready(self, **attributes: str | int | float) -> None:
        """End the last phase, and say how long each took. `attributes` join the trace's root span."""
        if self._is_ready:
            return
        self._is_ready = True
        self.phase("ready")
        parts = ", ".join(f"{phase.name} {phase.seconds:.2f} s" for phase in self.phases)
        self._log.warning("cold start of %s: %s; ready after %.2f s", self.name, parts, self.seconds)
        export(self, attributes)

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last phase."""
        return (self.phases[-1].ended - self.phases[0].began) / 1e9

    def document(self) -> dict[str, float]:
        """Return seconds by phase."""
        return {phase.name: round(phase.seconds, 3) for phase in self.phases}


def export(start: ColdStart, attributes: dict[str, str | int | float]) -> None:
    """Write the spans with the process's tracer provider, or with one of our own where OTEL_EXPORTER_OTLP_* asks."""
    try:
        from opentelemetry import trace

        found = trace.get_tracer_provider()
        own = _own_provider(start.name) if isinstance(found, trace.ProxyTracerProvider) else None
    except ModuleNotFoundError as error:
        LOG.info("no trace of the cold start: %s", error)
        return
    provider: Any = own or found
    tracer = provider.get_tracer("heliostat.loaders")
    root = tracer.start_span("cold start", start_time=start.phases[0].began, attributes={"name": start.name})
    root.set_attributes(attributes)
    inside = trace.set_span_in_context(root)
    for phase in start.phases:
        tracer.start_span(phase.name, context=inside, start_time=phase.began).end(end_time=phase.ended)
    root.end(end_time=start.phases[-1].ended)
    if own is not None:
        # Aside: what waits for a silent collector (10 s, whatever is passed to force_flush) does not serve yet. No
        # daemon: of a script that ends at once the trace would be lost.
        threading.Thread(target=own.shutdown, name="cold-start-trace").start()


def _own_provider(name: str) -> Any:
    """Return a provider that exports by OTLP over HTTP, set by the standard variables, or None where none asks."""
    if not any(os.environ.get(each) for each in ENDPOINT_VARIABLES):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # What is given here would win over OTEL_SERVICE_NAME.
    service = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": name}
    provider = TracerProvider(resource=Resource.create(service))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
