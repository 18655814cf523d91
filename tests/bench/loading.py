"""`make bench-loading`: the loader beside every other one that installs here, in rounds that interleave them.

The others live in a throw-away environment (`build/bench-loading`), for they are no dependencies of this project. Each
measurement is a fresh process; a ratio is that of two medians of the same run.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.bench.report import FOLDER, machine, table
from tests.loading import files
from tests.loading.servers import RangeServer
from tests.loading.shape import Shape

ROOT = Path(__file__).parents[2]
VENV = ROOT / "build" / "bench-loading"
ANCHORS = Path(__file__).with_name("loading_anchors.txt")
SHAPED = Shape(first_byte=0.03, bandwidth=100e6)
MiB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Way:
    """One loader reading from one kind of place."""

    loader: str
    place: str
    title: str
    times: int = 1
    gate: bool = False


LOCAL = (
    Way(loader="heliostat", place="file", title="loaders.safetensors", times=3, gate=True),
    Way(loader="safetensors", place="file", title="safetensors (mmap) and clone", times=3, gate=True),
    Way(loader="fastsafetensors", place="file", title="fastsafetensors and clone", times=3),
    Way(loader="runai", place="file", title="Run:ai streamer and clone", times=3),
    Way(loader="tensorizer", place="tensors", title="tensorizer (own format)", times=3),
)
REMOTE = (
    Way(loader="heliostat", place="http", title="loaders.safetensors, http://", gate=True),
    Way(loader="heliostat", place="s3", title="loaders.safetensors, s3://"),
    Way(loader="boto3", place="s3", title="boto3: download, then load", gate=True),
    Way(loader="httpx", place="http", title="one connection: download, then load"),
    Way(loader="runai", place="s3", title="Run:ai streamer, S3", gate=True),
    Way(loader="s3torchconnector", place="s3", title="s3torchconnector, then parse"),
)
Results = dict[str, list[dict[str, list[float]]]]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured, and where the page goes."""

    rounds: int
    other_rounds: int
    layers: int
    folder: Path


def extent() -> Extent:
    """Read the command line, so that nobody who only asks for help measures for half an hour."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.loading", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of every loader (7)")
    others = "rounds of those that no gate compares with (as many): all of them take long on a busy machine"
    parser.add_argument("--other-rounds", type=int, help=others)
    parser.add_argument("--layers", type=int, default=10, help="layers of the model; 10 are 252 MiB, 1 is for a try")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the page goes (docs/benchmarks)")
    found = parser.parse_args()
    other_rounds = found.rounds if found.other_rounds is None else found.other_rounds
    return Extent(rounds=found.rounds, other_rounds=max(1, other_rounds), layers=found.layers, folder=found.folder)


def environment() -> Path:
    """Return the Python that has all loaders, made when it is not there."""
    python = VENV / "bin" / "python"
    if not (VENV / ".installed").exists():
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, f"torch=={version('torch')}"], check=True)
        subprocess.run([*pip, "-r", str(ANCHORS)], check=True)
        (VENV / ".installed").touch()
    return python


def s3_environment(server: RangeServer) -> dict[str, str]:
    """What S3 clients need to take the range server for a store: objects are files, and nobody checks the signature."""
    endpoint = f"http://127.0.0.1:{server.port}"
    return {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RUNAI_STREAMER_S3_ENDPOINT": endpoint,
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }


class Bench:
    """The files, the server and the results of one run."""

    def __init__(self, folder: Path, server: RangeServer, extent: Extent) -> None:
        self.python = str(environment())
        self.server, self.extent = server, extent
        self.file = folder / "weights" / "model.safetensors"
        files.write_file(self.file, files.transformer(layers=extent.layers, width=1024))
        self.tensors = self.file.with_suffix(".tensors")
        self.run("tensorize", str(self.file), str(self.tensors))
        self.checksums: set[int] = set()

    def run(self, *arguments: str) -> str:
        command = [self.python, "-m", "tests.bench.loading_ways", *arguments]
        extra = s3_environment(self.server) | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | extra, check=False, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    def place(self, way: Way) -> str:
        places = {
            "file": str(self.file),
            "tensors": str(self.tensors),
            "http": self.server.url("weights/model.safetensors"),
            "s3": "s3://weights/model.safetensors",
        }
        return places[way.place]

    def rounds(self, ways: Sequence[Way]) -> Results:
        """Measure every way once per round, so that a busy minute of the machine touches all of them."""
        found: Results = {way.title: [] for way in ways}
        for number in range(self.extent.rounds):
            for way in (way for way in ways if way.gate or number < self.extent.other_rounds):
                result = json.loads(self.run(way.loader, self.place(way), str(way.times)))
                self.checksums |= set(result["checksums"])
                found[way.title].append(result)
            print(f"round {number + 1} of {self.extent.rounds}", file=sys.stderr)
        if len(self.checksums) != 1:
            raise SystemExit(f"the loaders disagree about the bytes: {self.checksums}")
        return found


def first(results: Sequence[Mapping[str, list[float]]], key: str = "seconds") -> float:
    return statistics.median(result[key][0] for result in results)


def steady(results: Sequence[Mapping[str, list[float]]]) -> float:
    return statistics.median(second for result in results for second in result["seconds"][1:])


def peak(results: Sequence[Mapping[str, float]]) -> float:
    return statistics.median(result["peak"] for result in results)


def rows_of(results: Results, size: int, *, local: bool) -> list[list[str]]:
    rows = []
    for title, found in results.items():
        row = [title, str(len(found)), f"{first(found) * 1000:.0f}"]
        row += [f"{steady(found) * 1000:.0f}"] if local else []
        row += [f"{first(found, 'cpu') / size * 1e9:.2f}", f"{peak(found) / MiB:.0f}"]  # type: ignore[arg-type]
        rows.append(row)
    return rows


def gates(local: Results, plain: Results, shaped: Results, size: int) -> list[list[str]]:
    """Every gate that this benchmark can judge, with what came out."""
    ours, reference = local[LOCAL[0].title], local[LOCAL[1].title]
    rows: list[tuple[str, float, float, bool]] = [
        ("local, first call, against safetensors and clone", first(reference) / first(ours), 1.1, True),
        ("local, steady, against safetensors and clone", steady(reference) / steady(ours), 1.6, True),
    ]
    http, boto, runai = REMOTE[0].title, REMOTE[2].title, REMOTE[4].title
    for name, found, wanted in (("unshaped", plain, 4.0), ("shaped", shaped, 2.5)):
        rows += [
            (f"HTTP {name}, against boto3: download, then load", first(found[boto]) / first(found[http]), wanted, True),
            (f"HTTP {name}, against Run:ai S3", first(found[runai]) / first(found[http]), 2.5, True),
            (
                f"HTTP {name}, CPU against Run:ai S3",
                first(found[http], "cpu") / first(found[runai], "cpu"),
                0.35,
                False,
            ),
        ]
    over = max(peak(found[http]) for found in (plain, shaped)) - size  # type: ignore[arg-type]
    rows.append(("peak RSS over the file's size, MiB", over / MiB, 150, False))
    return [
        [name, f"{'>=' if least else '<='} {gate:g}", f"{value:.2f}", "yes" if (value >= gate) == least else "**no**"]
        for name, value, gate, least in rows
    ]


def run() -> None:
    """Measure, and write the page, its chart, and the figures behind both."""
    wanted = extent()
    wanted.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, RangeServer(Path(name)) as server:
        bench = Bench(Path(name), server, wanted)
        size = bench.file.stat().st_size
        load_before, touch = os.getloadavg()[0], first_touch()
        local = bench.rounds(LOCAL)
        plain = bench.rounds(REMOTE)
        server.shape(SHAPED)
        shaped = bench.rounds(REMOTE)
        load_after = os.getloadavg()[0]
    found = {"local": local, "plain": plain, "shaped": shaped}
    figures = {
        kind: {title: first(result) * 1000 for title, result in results.items()} for kind, results in found.items()
    }
    chart = wanted.folder.absolute() / "loading.png"
    subprocess.run(
        [bench.python, "-m", "tests.bench.loading_chart", str(chart)],
        input=json.dumps(figures),
        text=True,
        check=True,
        cwd=ROOT,
    )
    text = page(found, size, (load_before, load_after), touch)
    (wanted.folder / "loading.md").write_text(text)
    print(text)


def first_touch() -> float:
    """Return processor seconds per GB that getting fresh memory takes."""
    block = mmap.mmap(-1, 512 * MiB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_HUGEPAGE)
    before = time.thread_time()
    for at in range(0, len(block), mmap.PAGESIZE):
        block[at] = 1
    return (time.thread_time() - before) / len(block) * 1e9


def page(found: Mapping[str, Results], size: int, load: tuple[float, float], touch: float) -> str:
    """Return the page."""
    head = ["loader", "rounds", "ms", "CPU-s per GB", "peak RSS over imports, MiB"]
    local_head = ["loader", "rounds", "first call, ms", "steady, ms", *head[3:]]
    anchors = ", ".join(line for line in ANCHORS.read_text().split() if line.split("==")[0] in NAMED)
    return TEXT.format(
        size=f"{size / MiB:.0f} MiB",
        rounds=len(found["local"][LOCAL[0].title]),
        machine=machine(),
        date=datetime.now(UTC).date(),
        versions=f"Python {sys.version.split()[0]}, torch {version('torch')}, {anchors}",
        before=f"{load[0]:.1f}",
        after=f"{load[1]:.1f}",
        touch=touch,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        gates=table(["what", "gate", "measured", "met"], gates(found["local"], found["plain"], found["shaped"], size)),
        local=table(local_head, rows_of(found["local"], size, local=True)),
        plain=table(head, rows_of(found["plain"], size, local=False)),
        shaped=table(head, rows_of(found["shaped"], size, local=False)),
    )


NAMED = {
    "safetensors",
    "fastsafetensors",
    "runai-model-streamer",
    "boto3",
    "s3torchconnector",
    "tensorizer",
    "obstore",
    "httpx",
}
TEXT = """# Loading weights

`make bench-loading` wrote this page. One file of {size} (a small decoder in BF16), {rounds} interleaved rounds, each
measurement a fresh process with the imports done, medians, every byte read, kept and compared by checksum.

- Machine: {machine}. Load average {before} before and {after} after. Niceness of the benchmark: {nice}.
- First touch of memory in huge pages took {touch:.2f} s per GB. (Far above 0.2: a virtual machine's host has
  to give it back first; that is then part of every figure, and why they vary.)
- {date}; {versions}.
- The file is in the page cache. "Steady" is the second and third load in one process, all results kept.
- The origin is one Python process on loopback that sends with `sendfile`. It answers S3's GETs too, so that all remote
  loaders read from the same server. Shaped: 30 ms until the first byte, 100 MB/s per connection.
- No CUDA device was at hand: nothing here says anything about one.

![milliseconds per loader](loading.png)

## Gates
{gates}

Four more gates are held by tests, which fail beyond them: origin bytes for four processes of a node, at most 1.05 of
the file (`tests/loading/test_cache_processes.py`); bytes of a partial load, at most 1.05 of what is wanted
(`test_load.py`, `test_plan.py`); three Ray nodes with a shaped origin, at most 1.15 of the file from the origin and 1.5
times the time of one node (`tests/e2e/test_weights.py`); peak memory (`test_load.py`).

## A local file
{local}

## A remote file, unshaped
{plain}

## A remote file, shaped
{shaped}
"""


if __name__ == "__main__":
    run()
