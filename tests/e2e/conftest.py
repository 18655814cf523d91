"""The stage of an end-to-end test: a repository, a daemon on the shared Ray cluster, and traffic."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.embedded import EmbeddedCluster
from tests.e2e.stage import Stage
from tests.e2e.tcp_proxy import Wire, wire_to

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember whether a test failed: its stage then shows the daemon's log."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@contextmanager
def lent(
    cluster: EmbeddedCluster,
    request: pytest.FixtureRequest,
    wire: Wire | None = None,
    *,
    flags: tuple[str, ...] = (),
) -> Iterator[Stage]:
    """Lend a stage; everything on it is gone afterwards."""
    # Short: HAProxy's sockets lie below it.
    folder = Path(tempfile.mkdtemp(prefix="heliostat-e2e-"))
    made = Stage(folder, cluster, wire=wire, flags=flags)
    try:
        yield made
    finally:
        try:
            made.close()
        finally:
            if request.node.stash.get(_FAILED, False):
                print(f"--- the daemon's log\n{made.daemon.tail(150)}")
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stage(ray_cluster: EmbeddedCluster, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Lend a stage on the shared cluster."""
    with lent(ray_cluster, request) as made:
        yield made


@pytest.fixture
def far_stage(ray_cluster: EmbeddedCluster, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Lend a stage whose daemon reaches Ray through a wire that can be cut."""
    with wire_to(ray_cluster.dashboard_url) as wire, lent(ray_cluster, request, wire) as made:
        yield made
