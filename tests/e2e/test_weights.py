"""Weights on three real Ray nodes, from an origin with little bandwidth."""

from __future__ import annotations

import hashlib
import io
import json
import queue
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from safetensors import safe_open

from loaders.safetensors.cache_settings import FOLDER_VARIABLE
from loaders.safetensors.cache_store import Store
from loaders.safetensors.sources.http import FIRST_READ
from reconciler.cli.main import heliostat
from reconciler.embedded import EmbeddedCluster
from tests.e2e.conftest import lent
from tests.e2e.project import pause, weight
from tests.e2e.stage import Stage
from tests.e2e.waiting import wait_for
from tests.loading.files import big, transformer, write_file
from tests.loading.on_ray import NOBODY
from tests.loading.parts_on_ray import RANKS, RULES
from tests.loading.servers import ROOT, RangeServer
from tests.loading.shape import Shape
from tests.local_http import Answering, listening

pytestmark = pytest.mark.ray

SIZE = 64 << 20
RATE = 12e6
"""Bytes per second of the origin, for all connections together.

One node alone takes between five and six seconds: long against what a busy machine adds.
"""


def run_job(cluster: EmbeddedCluster, entrypoint: str) -> str:
    """Run a program on the cluster as a Ray job and return what it printed."""
    jobs = f"{cluster.dashboard_url}/api/jobs/"
    job = httpx.post(jobs, json={"entrypoint": entrypoint}, timeout=60).raise_for_status().json()["submission_id"]
    deadline = time.monotonic() + 120
    while (status := httpx.get(jobs + job, timeout=30).json())["status"] in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    logs = str(httpx.get(f"{jobs}{job}/logs", timeout=30).json()["logs"])
    assert status["status"] == "SUCCEEDED", logs
    return logs


def test_three_nodes_cost_the_origin_one_and_take_little_longer(ray_cluster: EmbeddedCluster, tmp_path: Path) -> None:
    for name, size in (("small", 1 << 20), ("alone", SIZE), ("together", SIZE)):
        write_file(tmp_path / name, big(size))
    with RangeServer(tmp_path, Shape(first_byte=0.03, total_bandwidth=RATE)) as origin:
        program = ROOT / "tests" / "loading" / "on_ray.py"
        urls = " ".join(map(origin.url, ("small", "alone", "together")))
        logs = run_job(ray_cluster, f"{sys.executable} {program} {urls} {tmp_path / 'caches'}")
        found: dict[str, Any] = json.loads(next(line for line in logs.splitlines() if line.startswith('{"alone"')))
        share = origin.counters().paths["/together"] / SIZE
        alone, slowest = (max(node["seconds"] for node in found[how]) for how in ("alone", "together"))
        print(f"alone {alone:.2f} s, the slowest of three {slowest:.2f} s, origin {share:.3f} of the file")
        assert len(found["together"]) == 3
        assert share <= 1.15
        assert slowest <= 1.5 * alone
        by_tasks = {each["node"]: each for each in found["by tasks"]}
        assert sum(each["staged"] is not None for each in by_tasks.values()) == 3
        for nobody in NOBODY:
            assert by_tasks.pop(nobody)["error"], "a node that is not there keeps nobody from theirs"
        size = (tmp_path / "small").stat().st_size
        assert all(each["staged"]["size"] == size for each in by_tasks.values())
        assert found["told"] == [3 * size, 3 * size]
        assert found["all"]


def test_ranks_and_layers_come_from_the_nodes_that_have_them(ray_cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """Who has what is asked of the tracker's actor; every tensor is compared with what safetensors slices."""
    for number, name in enumerate(("held", "fresh")):
        path, kinds = tmp_path / name, transformer(layers=2, width=256, dtype="F32", vocabulary=16384)
        write_file(path, kinds, seed=number)
    size = path.stat().st_size
    with RangeServer(tmp_path, Shape(first_byte=0.01, total_bandwidth=40e6)) as origin:
        program = ROOT / "tests" / "loading" / "parts_on_ray.py"
        given = f"parts {origin.url('held')} {origin.url('fresh')} {tmp_path / 'caches'}"
        logs = run_job(ray_cluster, f"{sys.executable} {program} {given}")
        found: dict[str, Any] = json.loads(next(line for line in logs.splitlines() if line.startswith('{"whole"')))
        cost = {name: bytes_sent / size for name, bytes_sent in origin.counters().paths.items()}
    print(f"the origin sent {cost} of each file")
    held, fresh = tmp_path / "held", tmp_path / "fresh"
    assert found["whole"] == sliced(held)
    assert found["rank"] == sliced(held, rank=1)
    assert found["layer"] == {name: digest for name, digest in sliced(held).items() if name.startswith("layers.1.")}
    assert found["ranks"] == [sliced(fresh, rank=rank) for rank in range(RANKS)]
    opening = (FIRST_READ + 1) / size
    assert cost["/held"] <= 1.05 + 3 * opening, "the rank's part and the layer came from the node that had them"
    assert cost["/fresh"] <= 1.15 + RANKS * opening, "what ranks have in common is asked of the origin about once"


@pytest.mark.slow  # twice ten seconds until a load gives the origin up
def test_neither_the_origin_nor_the_tracker_s_first_life_is_needed_once_a_node_has_everything(
    ray_cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    write_file(tmp_path / "held", transformer(layers=1, width=256, dtype="F32"))
    with RangeServer(tmp_path) as origin:
        program = ROOT / "tests" / "loading" / "parts_on_ray.py"
        given = f"gone {origin.url('held')} {origin.process.pid} {tmp_path / 'caches'}"
        logs = run_job(ray_cluster, f"{sys.executable} {program} {given}")
    found: dict[str, Any] = json.loads(next(line for line in logs.splitlines() if line.startswith('{"rank"')))
    assert found == {"rank": sliced(tmp_path / "held", rank=1), "whole": sliced(tmp_path / "held")}


def sliced(path: Path, rank: int | None = None) -> dict[str, str]:
    """Return the digest of every tensor's bytes, or of those of a rank's part, as safetensors reads them."""
    found = {}
    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            tensor = file.get_slice(name)
            dimension = next(each for pattern, each in RULES.items() if fnmatchcase(name, pattern))
            cut = [slice(None)] * len(tensor.get_shape())
            if rank is not None and dimension is not None:
                step = tensor.get_shape()[dimension] // RANKS
                cut[dimension] = slice(rank * step, (rank + 1) * step)
            found[name] = hashlib.sha256(tensor[tuple(cut)].tobytes()).hexdigest()
    return found


def test_the_command_line_stages_on_a_cluster_s_nodes(ray_cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """All nodes of this machine share one cache folder here: what is tried is the job, not the sharing."""
    write_file(tmp_path / "w.safetensors", big(1 << 20))
    node = next(node.id for node in ray_cluster.nodes.values() if node.zone)
    with RangeServer(tmp_path) as origin:
        arguments = ["cache", "stage", "--ray", ray_cluster.dashboard_url, "--node", node, "--timeout", "60"]
        arguments += ["--python", sys.executable]
        good = CliRunner().invoke(heliostat, [*arguments, origin.url("w.safetensors")])
        assert good.exit_code == 0, good.stderr
        assert node[:12] in good.stderr
        bad = CliRunner().invoke(heliostat, [*arguments, origin.url("none.safetensors")])
        assert bad.exit_code == 1
        assert "has no such object (404)" in bad.stderr


def test_the_daemon_stages_a_revision_s_weights_while_it_rolls_out(
    ray_cluster: EmbeddedCluster, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Killed in the middle, it finds its job again; weights that are not there fail nothing."""
    write_file(tmp_path / "w.safetensors", big(16 << 20))
    flags = (f"--stage-python={sys.executable}",)
    environment = {FOLDER_VARIABLE: str(tmp_path / "cache"), "HELIOSTAT_CACHE_BYTES": "1G"}
    with (
        RangeServer(tmp_path, Shape(total_bandwidth=1.5e6)) as origin,
        lent(ray_cluster, request, flags=flags) as stage,
    ):
        stage.deploy(stage.spec("v1", replicas=1, environment=environment))
        assert stage.daemon.status("chat")["staging"] is None
        uri = origin.url("w.safetensors")
        waiting = {"replicas": 1, "environment": environment, "steps": [weight(50), pause()]}
        stage.project.push(stage.spec("v2", **waiting, extra={"loading": {"stage": [uri]}}))
        running = wait_for(lambda: staging(stage, "running", partly=True), 60, "weights are on their way")
        assert running["uris"] == [uri]
        stage.daemon.kill()
        stage.daemon.start()
        done = wait_for(lambda: staging(stage, "done"), 60, "the weights are there")
        print(done, stage.daemon.cli("status", "chat").stdout)
        assert done["done"] == done["size"] > 0
        assert done["ended"] == done["nodes"] == len(ray_cluster.nodes) - 1
        assert "weights" in stage.daemon.cli("status", "chat").stdout
        (kept,) = Store(tmp_path / "cache", 1 << 30).kept()
        assert kept.present == kept.content.size
        assert origin.counters().body <= 1.1 * kept.content.size
        kinds = [event["kind"] for event in stage.daemon.events("chat")]
        assert kinds.count("WeightsStaged") == 1
        missing = {"loading": {"stage": [origin.url("none.safetensors")]}}
        stage.project.push(stage.spec("v3", replicas=1, environment=environment, extra=missing))
        failed = wait_for(lambda: staging(stage, "failed"), 60, "weights that are not there")
        assert "has no such object (404)" in failed["message"]
        stage.daemon.wait_settled("chat", "v3", 60)
        jobs = httpx.get(f"{ray_cluster.dashboard_url}/api/jobs/", timeout=30).json()
        ours = [job for job in jobs if str(job["submission_id"]).startswith("heliostat-stage-chat-")]
        assert sorted(job["status"] for job in ours) == ["FAILED", "SUCCEEDED"]


def staging(stage: Stage, state: str, *, partly: bool = False) -> dict[str, Any] | None:
    """Return what status says of weights, once they are in a state (and some of them are there, and some are not)."""
    found: dict[str, Any] | None = stage.daemon.status("chat")["staging"]
    if not found or found["state"] != state:
        return None
    return found if not partly or 0 < found["done"] < found["size"] else None


def package(folder: Path) -> tuple[str, bytes]:
    """Return a folder's Python files as Ray knows packages, by name and content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.glob("*.py")):
            archive.writestr(zipfile.ZipInfo(path.name, (1980, 1, 1, 0, 0, 0)), path.read_bytes())
    return f"_ray_pkg_{hashlib.sha256(buffer.getvalue()).hexdigest()[:40]}.zip", buffer.getvalue()


class Collector(Answering):
    """Takes OTLP over HTTP as a collector does, from whichever process sends it."""

    heard: ClassVar[queue.Queue[tuple[str, bytes]]] = queue.Queue()

    def answer(self) -> None:
        self.heard.put((self.path, self.body()))
        self.say(200)


def test_the_example_is_served_and_tells_where_its_start_went(ray_cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """As answers of its replicas, in their logs, and as a trace that each of them sends."""
    example = ROOT / "deploy" / "examples" / "weights"
    weights = tmp_path / "model.safetensors"
    subprocess.run([sys.executable, "make_weights.py", str(weights)], cwd=example, check=True, timeout=120)
    wanted = expected(weights)
    name, content = package(example)
    httpx.put(f"{ray_cluster.dashboard_url}/api/packages/gcs/{name}", content=content, timeout=30).raise_for_status()
    with RangeServer(tmp_path) as origin, listening(Collector) as collector:
        environment = {
            FOLDER_VARIABLE: str(tmp_path / "cache"),
            "HELIOSTAT_CACHE_BYTES": "1G",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
        }
        application = {
            "name": "decoder",
            "route_prefix": "/decoder",
            "import_path": "app:build",
            "args": {"weights": origin.url("model.safetensors")},
            "runtime_env": {"working_dir": f"gcs://{name}", "env_vars": environment},
            "deployments": [{"name": "Model", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}}],
        }
        url = f"{ray_cluster.dashboard_url}/api/serve/applications/"
        httpx.put(url, json={"applications": [application]}, timeout=30).raise_for_status()
        deadline = time.monotonic() + 120
        while (found := httpx.get(url, timeout=10).json()["applications"]["decoder"])["status"] != "RUNNING":
            assert found["status"] == "DEPLOYING", found["message"]
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        groups = httpx.get(url, timeout=10).json()["target_groups"]
        targets = [target for group in groups for target in group["targets"] if "decoder#Model" in target["name"]]
        assert len(targets) == 2
        told = []
        for target in targets:
            replica = f"http://{target['ip']}:{target['port']}/decoder"
            assert httpx.get(f"{replica}/?tokens=5,6,7", timeout=30).json()["next"] == wanted
            phases = httpx.get(f"{replica}/cold-start", timeout=30).json()
            print(phases)
            assert list(phases) == ["import", "fetch", "device"]
            assert all(seconds >= 0 for seconds in phases.values())
            told.append(phases)
        assert origin.counters().body <= 1.1 * weights.stat().st_size
        replicas = found["deployments"]["Model"]["replicas"]
        traced = dict(trace_of(*Collector.heard.get(timeout=15)) for _ in replicas)
    assert sorted(traced) == sorted(replica["replica_id"] for replica in replicas)
    assert sorted(map(str, traced.values())) == sorted(map(str, told)), "the trace says what the replica answers"
    for replica in replicas:
        assert log_of(ray_cluster, replica).count("cold start of decoder: import ") == 1


def trace_of(path: str, body: bytes) -> tuple[str, dict[str, float]]:
    """Return which replica an export of one trace is of, and its phases in seconds."""
    assert path == "/v1/traces"
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
    assert service == "decoder"
    spans = sorted(
        resource.scope_spans[0].spans, key=lambda span: (span.start_time_unix_nano, span.name != "cold start")
    )
    root, *phases = spans
    assert root.name == "cold start"
    assert {phase.parent_span_id for phase in phases} == {root.span_id}
    replica = {each.key: each.value.string_value for each in root.attributes}["replica"]
    took = {each.name: round((each.end_time_unix_nano - each.start_time_unix_nano) / 1e9, 3) for each in phases}
    return replica, took


def log_of(cluster: EmbeddedCluster, replica: Mapping[str, str]) -> str:
    """Return what Serve keeps of a replica's log, as Ray's dashboard shows it."""
    asked = {"node_id": replica["node_id"], "filename": replica["log_file_path"].lstrip("/"), "lines": "1000"}
    return httpx.get(f"{cluster.dashboard_url}/api/v0/logs/file", params=asked, timeout=30).raise_for_status().text


def expected(weights: Path) -> int:
    """Ask the model in a process of its own, with weights as safetensors reads them."""
    program = (
        "import sys, torch; from model import Decoder; from safetensors.torch import load_file; model = Decoder();"
        "model.load_state_dict(load_file(sys.argv[1])); print(int(model(torch.tensor([[5, 6, 7]]))[0, -1].argmax()))"
    )
    example = ROOT / "deploy" / "examples" / "weights"
    done = subprocess.run(
        [sys.executable, "-c", program, str(weights)], cwd=example, check=True, timeout=120, capture_output=True
    )
    return int(done.stdout)
