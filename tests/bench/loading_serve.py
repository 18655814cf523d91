"""From one replica to four on three nodes: time until all are ready, against downloading and loading in `__init__`.

Both ways load the same model with the same code around it, in turns, from an origin with little bandwidth. Every round
has objects and cache folders of its own.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from reconciler.embedded import EmbeddedCluster
from tests.bench import report
from tests.e2e.waiting import wait_for
from tests.loading.servers import ROOT, RangeServer
from tests.loading.shape import Shape

LAYERS, WIDTH = 4, 1024
ORIGIN = Shape(first_byte=0.03, total_bandwidth=6e6)
ROUNDS = int(os.environ.get("ROUNDS", "2"))
WAYS = {"download": "download, then `safetensors.torch.load_file`", "heliostat": "`loaders.safetensors`"}
REPLICAS = 4
GATE = 5.1
"""What the hosted product claims of its own loader, end to end."""
EXAMPLE = ROOT / "deploy" / "examples" / "weights"


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One scaling of one way: `origin` in bytes, phases of the slowest new replica."""

    way: str
    seconds: float
    origin: int
    phases: Mapping[str, float]
    nodes: int


class Rig:
    """The cluster, the origin and what is deployed."""

    def __init__(self, cluster: EmbeddedCluster, origin: RangeServer, folder: Path) -> None:
        self.cluster, self.origin, self.folder = cluster, origin, folder
        self.client = httpx.Client(base_url=cluster.dashboard_url, timeout=60, trust_env=False)
        self.package = self.upload()

    def upload(self) -> str:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in (EXAMPLE / "model.py", Path(__file__).parent / "app" / "weights_app.py"):
                archive.writestr(zipfile.ZipInfo(path.name, (1980, 1, 1, 0, 0, 0)), path.read_bytes())
        name = f"_ray_pkg_{hashlib.sha256(buffer.getvalue()).hexdigest()[:40]}.zip"
        self.client.put(f"/api/packages/gcs/{name}", content=buffer.getvalue()).raise_for_status()
        return f"gcs://{name}"

    def put(self, way: str, name: str, replicas: int) -> None:
        application = {
            "name": "decoder",
            "route_prefix": "/decoder",
            "import_path": "weights_app:build",
            "args": {
                "weights": self.origin.url(name),
                "way": way,
                "folder": str(self.folder / "caches" / name),
                "layers": LAYERS,
                "width": WIDTH,
            },
            "runtime_env": {"working_dir": self.package},
            "deployments": [
                {
                    "name": "Model",
                    "num_replicas": replicas,
                    "max_replicas_per_node": 2,
                    "ray_actor_options": {"num_cpus": 1},
                    "health_check_timeout_s": 600,
                }
            ],
        }
        self.client.put("/api/serve/applications/", json={"applications": [application]}).raise_for_status()

    def running(self) -> list[dict[str, Any]]:
        found = self.client.get("/api/serve/applications/").json()["applications"].get("decoder", {})
        assert found.get("status") != "DEPLOY_FAILED", found
        replicas = found.get("deployments", {}).get("Model", {}).get("replicas", [])
        return [replica for replica in replicas if replica["state"] == "RUNNING"]

    def scale(self, way: str, name: str) -> Scaling:
        """Deploy one replica, then time the way to four."""
        self.origin.shape(Shape())  # how the first replica came to be is not what is timed
        self.put(way, name, 1)
        wait_for(lambda: len(self.running()) == 1, 300, "one replica runs")
        first = set(self.timelines())
        self.origin.shape(ORIGIN)
        self.origin.forget()
        began = time.monotonic()
        self.put(way, name, REPLICAS)
        wait_for(lambda: len(self.running()) == REPLICAS, 400, "four replicas run", interval=0.05)
        seconds = time.monotonic() - began
        new = [phases for key, phases in self.timelines().items() if key not in first]
        nodes = len({replica["node_id"] for replica in self.running()})
        slowest = max(new, key=lambda phases: phases["fetch"])
        origin = self.origin.counters().body
        self.clear()
        return Scaling(way=way, seconds=seconds, origin=origin, phases=slowest, nodes=nodes)

    def timelines(self) -> dict[str, dict[str, float]]:
        groups = self.client.get("/api/serve/applications/").json()["target_groups"]
        targets = [target for group in groups for target in group["targets"] if "#Model#" in target["name"]]
        return {
            target["name"]: httpx.get(f"http://{target['ip']}:{target['port']}/decoder/cold-start", timeout=30).json()
            for target in targets
        }

    def clear(self) -> None:
        self.client.put("/api/serve/applications/", json={"applications": []}).raise_for_status()
        wait_for(
            lambda: not self.client.get("/api/serve/applications/").json()["applications"], 120, "nothing is deployed"
        )


def run() -> None:
    """Measure and write docs/benchmarks/loading-serve.md."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-bench-"))
    try:
        served = folder / "origin"
        served.mkdir()
        first = served / "model.safetensors"
        command = [sys.executable, "make_weights.py", str(first), str(LAYERS), str(WIDTH)]
        subprocess.run(command, cwd=EXAMPLE, check=True)
        found: list[Scaling] = []
        with EmbeddedCluster(cpus_per_node=4.0) as cluster, RangeServer(served) as origin:
            rig = Rig(cluster, origin, folder)
            for number in range(ROUNDS):
                for way in WAYS if number % 2 == 0 else reversed(WAYS):
                    name = f"{way}-{number}.safetensors"
                    os.link(first, served / name)
                    found.append(rig.scale(way, name))
                    print(found[-1], flush=True)
        write(found, first.stat().st_size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(found: list[Scaling], size: int) -> None:
    rows = []
    medians = {}
    for way, text in WAYS.items():
        mine = [scaling for scaling in found if scaling.way == way]
        medians[way] = statistics.median(scaling.seconds for scaling in mine)
        rows.append(
            [
                text,
                f"{medians[way]:.1f}",
                ", ".join(f"{scaling.seconds:.1f}" for scaling in mine),
                f"{statistics.median(scaling.phases['import'] for scaling in mine):.1f}",
                f"{statistics.median(scaling.phases['fetch'] for scaling in mine):.1f}",
                f"{statistics.median(scaling.origin for scaling in mine) / size:.2f}",
                str(min(scaling.nodes for scaling in mine)),
            ]
        )
    ratio = medians["download"] / medians["heliostat"]
    head = ["way", "median s", "rounds", "import s", "fetch s", "origin bytes / file", "nodes"]
    report.write(
        "loading-serve",
        "From one replica to four",
        [
            f"A decoder with {size / 2**20:.0f} MiB of weights on three Ray nodes of this machine; the origin sends "
            f"{ORIGIN.total_bandwidth / 1e6:.0f} MB/s in all and waits {ORIGIN.first_byte * 1000:.0f} ms before each "
            f"answer: one node alone needs {size / ORIGIN.total_bandwidth:.0f} s for the file. One replica runs; the "
            "clock goes from the PUT that asks for four until Serve says that all four run. "
            "Import and fetch are phases of the new replica that fetched longest.",
            report.table(head, rows),
            f"**Ratio: {ratio:.1f}** (gate: at least {GATE}; rounds of each way, in turns: {len(found) // len(WAYS)}). "
            "The ratio grows with the size of the weights over the origin's bandwidth: what is left beside the fetch "
            "(a process, its imports, Serve's own pace) is the same for both ways.",
        ],
    )


if __name__ == "__main__":
    run()
