"""A replica's cold start is told phase by phase, in the log and as a trace."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loaders.coldstart import ColdStart
from tests.local_http import Answering, listening

SILENT = threading.Event()
"""While it is clear the collector answers nobody."""


class Collector(Answering):
    bodies: ClassVar[list[bytes]] = []

    def answer(self) -> None:
        self.bodies.append(self.body())
        SILENT.wait(30)
        self.say(200)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Collector]]:
    SILENT.set()
    Collector.bodies.clear()
    with listening(Collector) as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        yield Collector


def exported(collector: type[Collector]) -> ExportTraceServiceRequest:
    """Wait until the trace has left this process; return it."""
    for thread in threading.enumerate():
        if thread.name == "cold-start-trace":
            thread.join(30)
    [request] = [ExportTraceServiceRequest.FromString(body) for body in collector.bodies]
    return request


def service(request: ExportTraceServiceRequest) -> str:
    found = {each.key: each.value.string_value for each in request.resource_spans[0].resource.attributes}
    return found["service.name"]


def started() -> ColdStart:
    start = ColdStart("decoder")
    start.phase("fetch")
    start.phase("device")
    start.ready(weights="s3://models/a")
    return start


def test_phases_have_no_gaps_and_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    start = started()
    start.ready()
    assert [phase.name for phase in start.phases] == ["import", "fetch", "device"]
    assert all(a.ended == b.began for a, b in zip(start.phases, start.phases[1:], strict=False))
    assert list(start.document()) == ["import", "fetch", "device"]
    assert len(caplog.records) == 1
    assert caplog.text.count("cold start of decoder: import 0.0") == 1


def test_the_trace_reaches_a_collector(collector: type[Collector]) -> None:
    start = started()
    request = exported(collector)
    assert service(request) == "decoder"
    spans = {span.name: span for span in request.resource_spans[0].scope_spans[0].spans}
    assert set(spans) == {"cold start", "import", "fetch", "device"}
    root = spans.pop("cold start")
    assert {each.key: each.value.string_value for each in root.attributes} == {
        "name": "decoder",
        "weights": "s3://models/a",
    }
    assert all(span.parent_span_id == root.span_id for span in spans.values())
    assert root.end_time_unix_nano - root.start_time_unix_nano == round(start.seconds * 1e9)


def test_the_standard_variables_name_the_service(collector: type[Collector], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chat")
    started()
    assert service(exported(collector)) == "chat"


def test_a_collector_that_does_not_answer_keeps_nobody_from_serving(collector: type[Collector]) -> None:
    SILENT.clear()
    started()  # is ready while the collector still holds the request
    assert any(thread.name == "cold-start-trace" for thread in threading.enumerate())
    SILENT.set()
    exported(collector)


def test_a_process_that_traces_already_does_so_with_its_own_provider(
    collector: type[Collector], monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    started()
    assert [span.name for span in exporter.get_finished_spans()] == ["import", "fetch", "device", "cold start"]
    assert not any(thread.name == "cold-start-trace" for thread in threading.enumerate())
    assert collector.bodies == []


def test_the_line_goes_where_it_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    start = ColdStart("decoder", log=logging.getLogger("elsewhere"))
    start.ready()
    assert [record.name for record in caplog.records] == ["elsewhere"]
