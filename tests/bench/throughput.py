"""Requests per second through Heliostat's gateway, stock Serve and Ray's own HAProxy mode, in turns.

Each way to a replica of the same application gets, in each round, a cluster of its own that has the machine to
itself: an idle Ray cluster beside it takes a good part of a core, which the cheaper ways would feel most. The
replica is measured without anything before it too: that is what no way can be faster than.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

from reconciler.embedded import EmbeddedCluster
from tests.bench import report
from tests.bench.processes import cpu_seconds, find
from tests.e2e.daemon import Daemon, free_port
from tests.e2e.project import API
from tests.e2e.waiting import wait_for
from tests.origin import Origin

APP = Path(__file__).parent / "app" / "bench_app.py"
CONNECTIONS = 16
SECONDS = 5
WARM_UP_SECONDS = 2
ROUNDS = 5
PATHS = {"requests": "/hello", "streams": "/events"}


@dataclass(kw_only=True)
class Mode:
    """What was measured on one way to a replica, round by round."""

    name: str
    rates: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in PATHS})
    costs: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in PATHS})

    def median(self, kind: str) -> float:
        return statistics.median(self.rates[kind])

    def cost(self, kind: str) -> float:
        """Return microseconds of CPU per answer."""
        return statistics.median(self.costs[kind]) * 1e6


@dataclass(frozen=True, kw_only=True)
class Way:
    """One open way to a replica; `front` are the processes in between."""

    name: str
    url: str
    front: Callable[[], Sequence[int]]


STOCK, RAY_HAPROXY, GATEWAY, ALONE = (
    "stock Serve (Python proxy)",
    "Ray's HAProxy mode",
    "Heliostat's gateway",
    "the replica alone",
)
LEAN = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
}
"""What `RAY_SERVE_THROUGHPUT_OPTIMIZED=1` changes within a replica; a service can ask for it in its `env_vars`."""
APPS: Mapping[str, Mapping[str, str]] = {"bench": {}, "lean": LEAN}
"""The application as it is, and once more with lean replicas: only one of them gets requests at a time."""


def run() -> None:
    """Measure and write docs/benchmarks/throughput.md."""
    if shutil.which("wrk") is None:
        raise SystemExit("This benchmark sends its load with wrk: apt install wrk")
    ways = (STOCK, RAY_HAPROXY, GATEWAY, ALONE)
    modes = {name: Mode(name=name) for name in (*ways, *map(_lean, ways))}
    for number in range(1, ROUNDS + 1):
        for opened in (_stock, _haproxy, _heliostat):
            # Short: Ray adds 60 characters to the path of its HAProxy's socket, which holds 97.
            folder = Path(tempfile.mkdtemp(prefix="hb-", dir="/tmp"))
            try:
                with opened(folder) as ways:
                    for way in ways:
                        _measure(number, way, modes[way.name])
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    _write(modes)


def _lean(name: str) -> str:
    return f"{name}, lean replica"


def _named(name: str, app: str) -> str:
    return name if app == "bench" else _lean(name)


@contextmanager
def _stock(folder: Path) -> Iterator[Sequence[Way]]:
    with _ray(STOCK, "ProxyActor", {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}) as ways:
        yield ways


@contextmanager
def _haproxy(folder: Path) -> Iterator[Sequence[Way]]:
    with _ray(RAY_HAPROXY, "haproxy", _ray_haproxy(folder)) as ways:
        yield ways


def _ray_haproxy(folder: Path) -> Mapping[str, str]:
    """Ray's mode with its own defaults, its files out of the way of others."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "r" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "r" / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "r"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "r" / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }


@contextmanager
def _ray(name: str, front: str, environment: Mapping[str, str]) -> Iterator[Sequence[Way]]:
    """Serve the application with Ray's own means."""
    port = free_port()
    with EmbeddedCluster(zones=("a",), environment=environment) as cluster:
        package = _upload(cluster.dashboard_url)
        document = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1" if front == "ProxyActor" else "0.0.0.0", "port": port},
            "applications": [
                {
                    "name": app,
                    "route_prefix": f"/{app}",
                    "import_path": "bench_app:app",
                    "runtime_env": {"working_dir": package, "env_vars": dict(variables)},
                    "deployments": [{"name": "Bench", "num_replicas": 1}],
                }
                for app, variables in APPS.items()
            ],
        }
        url = f"{cluster.dashboard_url}/api/serve/applications/"
        answer = httpx.put(url, json=document, timeout=90, trust_env=False)
        assert answer.status_code == 200, f"{name}: {answer.text[-3000:]}"
        session = cluster._child.pid if cluster._child else 0  # every process of the cluster is in its session
        base = f"http://127.0.0.1:{port}"
        ways = (Way(name=_named(name, app), url=f"{base}/{app}", front=lambda: find(session, front)) for app in APPS)
        yield [_ready(way) for way in ways]


def _upload(dashboard: str) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("bench_app.py", (1980, 1, 1, 0, 0, 0)), APP.read_bytes())
    name = f"_ray_pkg_{hashlib.sha256(buffer.getvalue()).hexdigest()[:40]}.zip"
    answer = httpx.put(f"{dashboard}/api/packages/gcs/{name}", content=buffer.getvalue(), timeout=30, trust_env=False)
    answer.raise_for_status()
    return f"gcs://{name}"


@contextmanager
def _heliostat(folder: Path) -> Iterator[Sequence[Way]]:
    """Serve the application from a Git repository, through the gateway; and past it, to the replica itself."""
    specs = {f"{app}.yaml": yaml.safe_dump(_spec(app, variables)) for app, variables in APPS.items()}
    origin = Origin(folder / "project")
    origin.commit({**specs, "bench_app.py": APP.read_bytes()})
    with EmbeddedCluster(zones=("a",)) as cluster:
        daemon = Daemon(folder, origin.folder, cluster.dashboard_url)
        try:
            daemon.start()
            for app in APPS:
                daemon.wait(app, 90, "served", sync="Synced", health="Healthy")
            front = [pid for pid in (daemon.haproxy(),) if pid is not None]
            ways = [Way(name=_named(GATEWAY, app), url=f"{daemon.gateway}/{app}", front=lambda: front) for app in APPS]
            alone = [
                Way(name=_named(ALONE, app), url=_replica(cluster.dashboard_url, app), front=lambda: ()) for app in APPS
            ]
            yield [_ready(way) for way in (*ways, *alone)]
        finally:
            daemon.close()


def _spec(app: str, variables: Mapping[str, str]) -> Mapping[str, object]:
    return {
        "apiVersion": API,
        "kind": "Service",
        "metadata": {"name": app},
        "spec": {
            "application": {
                "import_path": "bench_app:app",
                "runtime_env": {"working_dir": ".", "env_vars": dict(variables)},
                "deployments": [{"name": "Bench", "num_replicas": 1}],
            },
            "rollout": {"minReady": "1s"},
        },
    }


def _replica(dashboard: str, app: str) -> str:
    """Return the address of a service's only replica's own HTTP server, with the private prefix it answers to."""
    answer = httpx.get(f"{dashboard}/api/serve/applications/", timeout=30, trust_env=False).json()
    (cell,) = [name for name in answer["applications"] if name.startswith(f"{app}.")]
    (target,) = [
        target
        for group in answer["target_groups"]
        for target in group["targets"]
        if group["protocol"] == "HTTP" and target["name"].startswith(f"SERVE_REPLICA::{cell}#")
    ]
    return f"http://{target['ip']}:{target['port']}{answer['applications'][cell]['route_prefix']}"


def _ready(way: Way) -> Way:
    def answers() -> bool:
        try:
            return httpx.get(f"{way.url}/hello", timeout=5, trust_env=False).json() == {"ok": True}
        except (httpx.TransportError, ValueError):
            return False

    wait_for(answers, 90, f"{way.name} answers")
    assert way.name in {ALONE, _lean(ALONE)} or way.front(), f"{way.name}: what stands before the replica was not found"
    return way


def _measure(number: int, way: Way, mode: Mode) -> None:
    for kind, path in PATHS.items():
        _wrk(way.url + path, WARM_UP_SECONDS)
        before, began = cpu_seconds(way.front()), time.monotonic()
        answers, rate = _wrk(way.url + path, SECONDS)
        spent = cpu_seconds(way.front()) - before
        print(f"{number} {kind} {way.name}: {rate:.0f}/s in {time.monotonic() - began:.1f} s", flush=True)
        mode.rates[kind].append(rate)
        mode.costs[kind].append(spent / max(1, answers))


def _wrk(url: str, seconds: int) -> tuple[int, float]:
    """Return answers and answers per second; every one of them must have been a good one."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", url]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30)
    bad = re.search(r"Non-2xx.*|Socket errors.*", done.stdout)
    assert bad is None, f"{url}: {bad and bad.group()}"
    answers, rate = re.search(r"(\d+) requests in", done.stdout), re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert answers is not None
    assert rate is not None
    return int(answers.group(1)), float(rate.group(1))


def _write(modes: Mapping[str, Mode]) -> None:
    rows = [
        [
            mode.name,
            f"{mode.median('requests'):,.0f}",
            f"{min(mode.rates['requests']):,.0f} - {max(mode.rates['requests']):,.0f}",
            f"{mode.cost('requests'):,.0f}",
            f"{mode.median('streams'):,.0f}",
            f"{min(mode.rates['streams']):,.0f} - {max(mode.rates['streams']):,.0f}",
            f"{mode.cost('streams'):,.0f}",
        ]
        for mode in modes.values()
    ]
    head = [
        "way to the replica",
        "requests/s",
        "range",
        "CPU us per request",
        "SSE answers/s",
        "range",
        "CPU us per answer",
    ]
    how = (
        "One replica of one FastAPI application, on a cluster with one worker node that has the machine to itself "
        f"while it is measured; in each of {ROUNDS} rounds each way gets a new one, in turns. Load: `wrk -t1 "
        f"-c{CONNECTIONS} -d{SECONDS}s` (Debian's wrk) on the same machine, after {WARM_UP_SECONDS} s of warm-up; "
        "medians. CPU is that of the processes between client and replica (the proxy actor, or HAProxy), from /proc. "
        "An SSE answer has 200 events, each a write of its own. The replica alone is the ceiling for every way to it: "
        "its Python fills one core, and client and proxy share the other."
    )
    sections = [how, report.table(head, rows), "## Figures to reach", _goals(modes)]
    report.write("throughput", "Throughput", sections)


def _goals(modes: Mapping[str, Mode]) -> str:
    def ratio(kind: str, name: str, *, lean: bool = False) -> str:
        ours, theirs = (modes[_lean(way) if lean else way] for way in (GATEWAY, name))
        return f"{ours.median(kind) / theirs.median(kind):.2f}x"

    goals = [
        ["requests/s against stock Serve", ">= 4x", ratio("requests", STOCK)],
        ["requests/s against Ray's HAProxy mode", ">= 0.95x", ratio("requests", RAY_HAPROXY)],
        ["requests/s against stock Serve, lean replicas on both sides", ">= 4x", ratio("requests", STOCK, lean=True)],
        ["SSE answers/s against stock Serve", ">= 3x", ratio("streams", STOCK)],
        ["SSE answers/s against stock Serve, lean replicas on both sides", ">= 3x", ratio("streams", STOCK, lean=True)],
        ["SSE answers/s against Ray's HAProxy mode", "-", ratio("streams", RAY_HAPROXY)],
        ["SSE answers/s against the replica alone", "-", ratio("streams", ALONE)],
    ]
    return report.table(["figure", "goal", "measured"], goals)
