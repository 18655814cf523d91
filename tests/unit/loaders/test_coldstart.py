"""A replica's cold start is told phase by phase, in the log and as a trace."""

from __future__ import annotations

from typing import ClassVar

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from loaders.coldstart import ColdStart
from tests.local_http import Answering, listening


class Collector(Answering):
    bodies: ClassVar[list[bytes]] = []

    def answer(self) -> None:
        self.bodies.append(self.body())
        self.say(200)


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


def test_the_trace_reaches_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(Collector) as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        start = started()
    [request] = [ExportTraceServiceRequest.FromString(body) for body in Collector.bodies]
    spans = {span.name: span for span in request.resource_spans[0].scope_spans[0].spans}
    assert set(spans) == {"cold start", "import", "fetch", "device"}
    root = spans.pop("cold start")
    assert all(span.parent_span_id == root.span_id for span in spans.values())
    assert root.end_time_unix_nano - root.start_time_unix_nano == round(start.seconds * 1e9)
