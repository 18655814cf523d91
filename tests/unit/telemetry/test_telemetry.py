from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from reconciler import telemetry
from reconciler.settings import LogFormat, LogLevel, Secret, Settings
from reconciler.telemetry import setup_logging, setup_tracing
from specs.decisions import Hold
from specs.reasons import Reason
from tests.local_http import Answering, listening
from tests.unit.telemetry.ticks import TIMINGS, Results, tick


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def settings(**fields: Any) -> Settings:
    return Settings(repo="r", state=Path("/state"), **fields)


def logged(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **fields: Any) -> structlog.stdlib.BoundLogger:
    monkeypatch.setattr(sys, "stderr", stream)
    setup_logging(settings(**fields))
    logger: structlog.stdlib.BoundLogger = structlog.get_logger("heliostat")
    return logger


def test_without_a_terminal_each_line_is_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    log = logged(monkeypatch, stream)
    log.info("rollout started", service="chat", weights={"b7": 10})
    logging.getLogger("uvicorn.error").warning("%s happened", "something")
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["event"], ours["service"], ours["weights"]) == ("rollout started", "chat", {"b7": 10})
    assert ours["level"] == "info"
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["level"]) == ("something happened", "warning")


def test_people_get_readable_lines_with_colours_unless_they_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    logged(monkeypatch, stream).info("rollout started", service="chat")
    assert "\x1b[" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    logged(monkeypatch, stream).info("rollout started", service="chat")
    assert "rollout started" in stream.getvalue()
    assert "service=chat" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_the_format_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    logged(monkeypatch, stream, log_format=LogFormat.JSON).info("x")
    assert json.loads(stream.getvalue())["event"] == "x"
    stream = io.StringIO()
    logged(monkeypatch, stream, log_format=LogFormat.CONSOLE).info("x")
    assert not stream.getvalue().startswith("{")


def test_less_important_lines_and_chatty_libraries_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    log = logged(monkeypatch, stream, log_level=LogLevel.WARNING)
    log.info("not this")
    log.warning("but this")
    setup_logging(settings())
    logging.getLogger("httpx").info("HTTP Request: GET ...")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["but this"]


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_secrets_never_reach_the_log(monkeypatch: pytest.MonkeyPatch, log_format: LogFormat) -> None:
    stream = io.StringIO()
    log = logged(monkeypatch, stream, log_format=log_format)
    log.info(
        "cloning https://bot:hunter2@git.example/specs failed",
        ray_token="hunter2",
        headers={"Authorization": "Bearer hunter2hunter2", "Accept": "json"},
        tried=["curl -H 'authorization: Bearer hunter2.hunter2'"],
        wrapped=Secret("hunter2"),
    )
    try:
        raise ValueError("https://bot:hunter2@git.example")
    except ValueError:
        log.exception("failed")
    logging.getLogger("lib").error("see https://bot:hunter2@git.example")
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("git.example") >= 3


def test_a_long_line_is_masked_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    begun = time.process_time()
    logged(monkeypatch, stream).info("a" * 300_000 + "://bot:hunter2@git.example")
    assert time.process_time() - begun < 5
    assert "hunter2" not in stream.getvalue()


def test_without_an_endpoint_nothing_is_traced_or_even_imported() -> None:
    code = (
        "import sys, reconciler.telemetry as t; t.setup_tracing({})(None); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_tick_becomes_a_span_with_its_phases_below(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    problems = {"chat": (Reason.SERVE_BUSY, "Serve builds")}
    hold = Hold(service="chat", reason=Reason.SERVE_BUSY, message="")
    telemetry.trace_tick(provider.get_tracer("test"), tick(hold, results=Results(problems=problems)))
    *phases, whole = exporter.get_finished_spans()
    assert [span.name for span in phases] == list(TIMINGS)
    assert {span.parent.span_id for span in phases if span.parent} == {whole.context.span_id}
    durations = [(span.end_time or 0) - (span.start_time or 0) for span in phases]
    assert durations == [duration.total_seconds() * 1e9 for duration in TIMINGS.values()]
    assert (phases[0].start_time, phases[-1].end_time) == (whole.start_time, whole.end_time)
    assert whole.attributes is not None
    assert whole.attributes["heliostat.decisions"] == 0
    assert not whole.status.is_ok
    assert [event.name for event in whole.events] == ["problem"]
    provider.shutdown()


class Collector(Answering):
    received: list[tuple[str, bytes]]

    def answer(self) -> None:
        self.received.append((self.path, self.body()))
        self.say(200)


def test_traces_arrive_at_the_standard_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, bytes]] = []
    handler = type("Handler", (Collector,), {"received": received})
    with listening(handler) as port:
        try:
            endpoint = f"http://127.0.0.1:{port}"
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            telemetry._otlp_tracer.cache_clear()
            trace = setup_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
            trace(tick())
            processor = telemetry._otlp_tracer().span_processor  # type: ignore[attr-defined]
            processor.force_flush()
            processor.shutdown()
        finally:
            telemetry._otlp_tracer.cache_clear()
    assert [path for path, _ in received] == ["/v1/traces"]
    assert b"heliostat" in received[0][1]
    assert b"observe" in received[0][1]
