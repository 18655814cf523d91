"""Inputs that libFuzzer makes by what they reach: for a short turn from one seed here, for longer in `make fuzz`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.budget import GATE_SEED, GUIDED_SECONDS

ROOT = Path(__file__).parents[2]
START_WITHIN = 180
"""Seconds on a busy machine: everything under test is instrumented while it is imported."""

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None and not os.environ.get("CI"),
    reason="needs atheris, which has wheels for Linux on x86-64 only",
)


def fuzzed(target: str, seconds: float, folder: Path) -> subprocess.CompletedProcess[str]:
    """Fuzz one target in a process of its own; what breaks it is left in the folder."""
    seed = 0 if "HELIOSTAT_FUZZ_SECONDS" in os.environ else GATE_SEED  # 0: another one each time
    options = [f"-max_total_time={round(seconds)}", f"-seed={seed}", f"-artifact_prefix={folder}/", "-timeout=20"]
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided", target, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_WITHIN + 2 * seconds,
        check=False,
    )


@pytest.mark.parametrize("target", ["spec-files", "webhook-bodies", "git-trees"])
def test_what_coverage_leads_to_is_read_or_refused(target: str, tmp_path: Path) -> None:
    done = fuzzed(target, max(1, GUIDED_SECONDS), tmp_path)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}\n{list(tmp_path.iterdir())}"
    assert "Done" in done.stderr
    print(done.stderr.splitlines()[-1])


def test_a_mistake_that_chance_does_not_find_is_found(tmp_path: Path) -> None:
    done = fuzzed("planted", 60, tmp_path)
    assert done.returncode != 0
    assert "AssertionError: planted" in done.stdout + done.stderr
    assert [file.read_bytes()[:4] for file in tmp_path.glob("crash-*")] == [b"heli"]
