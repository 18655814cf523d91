"""A real Ray cluster for tests: one per test run, emptied after each test that used it."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.adapters.nodes import RayNodes
from reconciler.adapters.packages import RayPackages
from reconciler.adapters.ray_rest import RayRest
from reconciler.adapters.serve import RayServe
from reconciler.adapters.serve_put import ServeStart
from reconciler.embedded import EmbeddedCluster

ZONES = ("a", "b", "c")

ECHO = Path(__file__).parent / "apps" / "echo" / "echo.py"

DRAIN = timedelta(seconds=3)
"""How long a stopping replica goes on serving; the simulation plays the same. HAProxy leaves one within 1.25 s."""

EMPTY_WITHIN = 60.0
"""Draining replicas take their drain period, a long request of a failed test longer."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package as the daemon would upload it."""

    uri: str
    content: bytes


def echo_package() -> Package:
    """Return the echo application as a content-addressed zip."""
    source = ECHO.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("echo.py", (1980, 1, 1, 0, 0, 0)), source)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:40]
    return Package(uri=f"gcs://_ray_pkg_{digest}.zip", content=buffer.getvalue())


def echo_application(name: str, *, replicas: int | None = 1, **args: Any) -> dict[str, Any]:
    """Return one application of the document; `replicas=None` leaves Echo unlisted, at its code's count."""
    deployments = [] if replicas is None else [{"name": "Echo", "num_replicas": replicas}]
    return {
        "name": name,
        "route_prefix": f"/_/{name}",
        "import_path": "echo:build",
        "args": args,
        "external_scaler_enabled": True,
        "runtime_env": {"working_dir": echo_package().uri},
        "deployments": deployments,
    }


@pytest.fixture(scope="session")
def started_ray() -> Iterator[EmbeddedCluster]:
    """Start the cluster once for the whole run."""
    with EmbeddedCluster(zones=ZONES, cpus_per_node=4.0, drain=DRAIN) as cluster:
        yield cluster


@pytest.fixture
def ray_cluster(started_ray: EmbeddedCluster) -> Iterator[EmbeddedCluster]:
    """Lend the cluster to one test and empty Serve afterwards."""
    # Ray drops the package when the last application that uses it goes.
    upload_echo(started_ray.dashboard_url)
    yield started_ray
    empty_serve(started_ray.dashboard_url)


@dataclass(frozen=True, kw_only=True)
class RayAdapters:
    """The real adapters on the test cluster."""

    rest: RayRest
    serve: RayServe
    nodes: RayNodes
    packages: RayPackages


@pytest.fixture
async def ray_adapters(ray_cluster: EmbeddedCluster) -> AsyncIterator[RayAdapters]:
    """Connect the real adapters to the test cluster."""
    async with RayRest(ray_cluster.dashboard_url) as rest:
        nodes = RayNodes(rest)
        serve = RayServe(rest, nodes=nodes, start=ServeStart(proxy_location="HeadOnly"))
        yield RayAdapters(rest=rest, serve=serve, nodes=nodes, packages=RayPackages(rest))


def upload_echo(dashboard_url: str) -> None:
    """Upload the echo application's package."""
    package = echo_package()
    name = package.uri.removeprefix("gcs://")
    httpx.put(f"{dashboard_url}/api/packages/gcs/{name}", content=package.content, timeout=30).raise_for_status()


def empty_serve(dashboard_url: str) -> None:
    """Delete every application and wait until the last replica is gone. Serve itself stays."""
    url = f"{dashboard_url}/api/serve/applications/"
    deadline = time.monotonic() + EMPTY_WITHIN
    while found := httpx.get(url, timeout=10).json():
        if not found["applications"]:
            return
        if any(application["status"] != "DELETING" for application in found["applications"].values()):
            kept = {key: found[key] for key in ("proxy_location", "http_options", "grpc_options") if found.get(key)}
            httpx.put(url, json={**kept, "applications": []}, timeout=30).raise_for_status()
        if time.monotonic() > deadline:
            raise TimeoutError(f"Serve did not let go of {sorted(found['applications'])}")
        time.sleep(0.2)
