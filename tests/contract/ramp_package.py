"""The small package of policies that tests install, as its users would."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from specs.world import World
from tests.builders import NOW, cell, service, world

PACKAGE = Path(__file__).parents[1] / "apps" / "ramp_policy"


def install(target: Path, source: Path) -> None:
    """Build the package in an empty folder, so that nothing is left beside its sources, and install it into another."""
    source.mkdir()
    for file in PACKAGE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=120)


def moving() -> World:
    """Return a world in which v2 of chat has been on its way for a minute."""
    labels = {"ramp.example.com/percent-per-minute": "30"}
    started = {"started_at": NOW - timedelta(minutes=1)}
    wanted = replace(service(version="v2", policy="ramp"), labels=labels)
    cells = (cell("v1", ready=3, weight=10_000), cell("v2", ready=1))
    return world(wanted, *cells, stable="v1", candidate="v2", rollout=started)
