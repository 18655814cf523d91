"""The stage of an end-to-end test: a repository, a daemon on the shared Ray cluster, and traffic."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.embedded import EmbeddedCluster
from tests.e2e.stage import Stage

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember whether a test failed: its stage then shows the daemon's log."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture
def stage(ray_cluster: EmbeddedCluster, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Lend a stage; everything on it is gone afterwards."""
    # Short: HAProxy's sockets lie below it.
    folder = Path(tempfile.mkdtemp(prefix="heliostat-e2e-"))
    made = Stage(folder, ray_cluster)
    try:
        yield made
    finally:
        try:
            made.close()
        finally:
            if request.node.stash.get(_FAILED, False):
                print(f"--- the daemon's log\n{made.daemon.tail(150)}")
            shutil.rmtree(folder, ignore_errors=True)
