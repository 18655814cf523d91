"""What only a real process shows: start-up time, interrupts, pipes, streams that go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from tests.unit.api.backends import MemoryBackend, chat, cluster, sample_events
from tests.unit.api.serving import TOKEN, serving

COMMAND = [sys.executable, "-m", "reconciler.cli.main"]


@contextmanager
def started(*arguments: str, server: str, state: Path) -> Iterator[subprocess.Popen[str]]:
    environ = {
        **os.environ,
        "HELIOSTAT_SERVER": server,
        "HELIOSTAT_TOKEN": TOKEN,
        "XDG_STATE_HOME": str(state),
        "PYTHONUNBUFFERED": "1",
    }
    child = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_the_command_line_starts_within_half_a_second() -> None:
    code = (
        "import time; start = time.process_time(); import reconciler.cli, reconciler.cli.main as main; "
        "took = time.process_time() - start; import sys; "
        "heavy = {'httpx', 'pydantic', 'starlette', 'ray', 'git', 'opentelemetry'} & set(sys.modules); "
        "print(took, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, heavy = done.stdout.split(maxsplit=1)
    assert float(took) < 0.5
    assert heavy.strip() == "[]"


def test_a_plan_of_a_checkout_loads_no_server_and_no_client_of_http() -> None:
    """Builds plan offline, for each push: what that does not need would be a third of its time."""
    code = (
        "import sys, reconciler.cli.plan; "
        "print(sorted({'httpx', 'starlette', 'structlog', 'ray', 'reconciler.cli.client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("verb", "is_rare"), [("validate", True), ("status", False)])
def test_only_what_ends_soon_collects_rarely(verb: str, is_rare: bool) -> None:
    code = (
        "import gc, sys; from reconciler.cli.main import main\ntry: main(sys.argv[1:])\n"
        "except SystemExit: print(gc.get_threshold()[0] > 10_000)"
    )
    done = subprocess.run([sys.executable, "-c", code, verb, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"{is_rare}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_overview_and_version_import_no_verb(arguments: list[str]) -> None:
    code = (
        "import sys; from reconciler.cli.main import heliostat; heliostat.main(sys.argv[1:], standalone_mode=False); "
        "assert {name for name in sys.modules if name.startswith('reconciler.cli.')} <= {'reconciler.cli.main'}"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)


def test_followed_events_go_on_over_a_restart_and_none_is_lost_or_told_twice(tmp_path: Path) -> None:
    backend = MemoryBackend()
    backend.logged = list(sample_events())
    with serving(backend) as server:
        port = int(server.url.rpartition(":")[2])
        with started("events", "-f", "-n", "1", "-o", "json", server=server.url, state=tmp_path) as child:
            assert json.loads(line_of(child.stdout))["id"] == 5
            server.do(backend.log("WeightChanged", "while it listens"))
            assert json.loads(line_of(child.stdout))["id"] == 6
            server.end()
            assert "waiting for it" in line_of(child.stderr)
            backend.logged.append(replace(backend.logged[-1], id=7, message="while the daemon was away"))
            with serving(backend, port) as again:
                assert json.loads(line_of(child.stdout))["id"] == 7
                assert line_of(child.stderr) == "the daemon is back\n"
                again.do(backend.log("WeightChanged", "after it"))
                assert json.loads(line_of(child.stdout))["id"] == 8
            child.send_signal(signal.SIGINT)
            assert child.wait(10) != 0


def test_watching_prints_what_changed_and_ends_quietly_on_an_interrupt(tmp_path: Path) -> None:
    backend = MemoryBackend(cluster(chat()))
    with serving(backend) as server, started("status", "-w", server=server.url, state=tmp_path) as child:
        assert "prod-us" in line_of(child.stdout)
        while "pausing at 10%" not in line_of(child.stdout):
            pass
        backend.cluster = cluster(replace(chat(), message="going to 50%"))
        while "going to 50%" not in line_of(child.stdout):
            pass
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=10)
    assert "Traceback" not in errors


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    backend = MemoryBackend()
    backend.logged = [replace(sample_events()[0], id=number, message="x" * 400) for number in range(1, 900)]
    with serving(backend) as server, started("events", "-n", "800", server=server.url, state=tmp_path) as child:
        line_of(child.stdout)
        assert child.stdout is not None
        child.stdout.close()
        child.wait(10)
        assert child.stderr is not None
        assert child.stderr.read() == ""
        child.stdout = None
