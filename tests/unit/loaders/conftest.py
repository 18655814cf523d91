"""No test reads or fills the cache of whoever runs it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def node_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "node-cache"
    monkeypatch.setenv("HELIOSTAT_CACHE_DIR", str(folder))
    return folder
