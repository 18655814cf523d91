"""A real Prometheus on loopback with its own folder, and an exporter whose numbers a test sets."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.local_http import Answering, listening

START_WITHIN = 60
"""Seconds; a busy machine needs several for the first start."""

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: app
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def missing_prometheus() -> str:
    """Return why tests with a real Prometheus cannot run here, "" when they can."""
    return "" if shutil.which("prometheus") else "prometheus is not installed: apt-get install prometheus"


def require_prometheus() -> None:
    """Skip when there is no Prometheus; in CI that is a failure, for nobody would notice."""
    why = missing_prometheus()
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if why:
        pytest.skip(why)


@dataclass(kw_only=True)
class Exporter:
    """Lines of `/metrics` as they are now: series -> value."""

    port: int = 0
    series: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RealPrometheus:
    """Where it listens, and what it scrapes."""

    url: str
    exporter: Exporter
    process: subprocess.Popen[bytes]

    def freeze(self) -> None:
        """Let it accept connections and never answer."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def exporting() -> Iterator[Exporter]:
    exporter = Exporter()

    class Handler(Answering):
        def answer(self) -> None:
            body = "".join(f"{name} {value}\n" for name, value in exporter.series.items()).encode()
            self.say(200, body, {"Content-Type": "text/plain; version=0.0.4"})

    with listening(Handler) as exporter.port:
        yield exporter


@contextmanager
def running_prometheus(folder: Path) -> Iterator[RealPrometheus]:
    """Run a Prometheus that scrapes an exporter each second, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with exporting() as exporter, open(folder / "log", "wb") as log:
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(port=exporter.port))
        url = f"http://127.0.0.1:{_free_port()}"
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={url.removeprefix('http://')}",
                "--storage.tsdb.retention.time=1h",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            _wait_until_ready(url, process, folder / "log")
            yield RealPrometheus(url=url, exporter=exporter, process=process)
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        assert process.poll() is None, f"prometheus ended: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise AssertionError(f"prometheus is not ready within {START_WITHIN} s: {log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
