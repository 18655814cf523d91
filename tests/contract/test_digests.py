"""The same revision id if and only if Serve keeps the replicas, field by field, on a real Ray cluster.

A changed spec is PUT under the *same* application name, which the daemon never does for a new revision: that
is how one sees whether Serve would have restarted anything. Small applications move all at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.embedded import EmbeddedCluster
from reconciler.errors import Retry
from reconciler.planning.compose import compose_config
from reconciler.ports import ServeSeen
from specs.cells import CellKey
from specs.desired import AutoScale, Desired, DesiredService, FixedScale
from specs.effects import PutServeConfig, ServeApplication
from specs.observed import CellSeen, CellStatus, ReplicaState
from specs.parse import read_desired
from specs.revision import in_place_differs
from tests.ray_cluster import RayAdapters, empty_serve
from tests.unit.specs.commits import COMMIT

pytestmark = pytest.mark.ray

FIELDS = Path(__file__).parent.parent / "apps" / "fields" / "fields.py"
SETTLED_WITHIN = 150.0
Change = Mapping[str, Any]

ACCELERATOR = "T4"

IN_PLACE: Change = {
    "user_config": {"threshold": 2},
    "max_ongoing_requests": 7,
    "max_queued_requests": 9,
    "backpressure_config": {"status_code": 429, "retry_after_s": 2},
    "graceful_shutdown_wait_loop_s": 0.5,
    "health_check_period_s": 7,
    "health_check_timeout_s": 8,
    "logging_config": {"log_level": "DEBUG"},
    "rolling_update_percentage": 0.5,
    "max_surge_percent": 50,
}

AUTOSCALING_IN_PLACE: Change = {
    "min_replicas": 2,
    "max_replicas": 3,
    "target_ongoing_requests": 5,
    "metrics_interval_s": 5,
    "look_back_period_s": 60,
    "upscaling_factor": 0.5,
    "downscaling_factor": 0.5,
    "upscale_delay_s": 40,
    "downscale_delay_s": 500,
    "aggregation_function": "max",
}

RESTARTING: Mapping[str, Change] = {
    "Cpus": {"ray_actor_options": {"num_cpus": 0.02}},
    "Resources": {"ray_actor_options": {"num_cpus": 0.01, "resources": {"node:__internal_head__": 0}}},
    "Memory": {"ray_actor_options": {"num_cpus": 0.01, "memory": 1000000}},
    "Selector": {"ray_actor_options": {"num_cpus": 0.01, "label_selector": {"ray.io/availability-zone": "a"}}},
    "Gpus": {"ray_actor_options": {"num_cpus": 0.01, "num_gpus": 0.1}},
    "Accelerator": {"ray_actor_options": {"num_cpus": 0.01, "accelerator_type": ACCELERATOR}},
    "Variables": {"ray_actor_options": {"num_cpus": 0.01, "runtime_env": {"env_vars": {"COLOUR": "blue"}}}},
    "PerNode": {"max_replicas_per_node": 5},
    "Bundles": {"placement_group_bundles": [{"CPU": 0.01}]},
    "Strategy": {"placement_group_bundles": [{"CPU": 0.01}], "placement_group_strategy": "SPREAD"},
    "Fallback": {
        "ray_actor_options": {
            "num_cpus": 0.01,
            "label_selector": {"ray.io/availability-zone": "a"},
            "fallback_strategy": [{"label_selector": {"ray.io/availability-zone": "b"}}],
        }
    },
}
"""By deployment: what makes Serve restart that deployment and no other."""

BOUNDS = {"max_replicas": 2}
OWN_POLICY = {**BOUNDS, "policy": {"policy_function": "ray.serve.autoscaling_policy:default_autoscaling_policy"}}
"""Ray's dashboard imports the function when it checks the document: one of the application's own it would not find."""

REBUILDING: Mapping[str, Change] = {
    "import-path": {"import_path": "fields:build_elsewhere"},
    "args": {"args": {"parts": ["Front"], "colour": "blue"}},
    "code": {"runtime_env": {"working_dir": "other"}},
    "modules": {"runtime_env": {"working_dir": ".", "py_modules": ["other"]}},
    "variables": {"runtime_env": {"working_dir": ".", "env_vars": {"COLOUR": "blue"}}},
    "router": {"deployments": [{"name": "Front", "request_router_config": {"request_routing_stats_period_s": 5}}]},
    "actors": {
        "deployments": [{"name": "Front", "deployment_actors": [{"name": "s", "actor_class": "fields:Shared"}]}]
    },
    "scaling": {"deployments": [{"name": "Front", "autoscaling_config": {}}]},
    "policy": {"deployments": [{"name": "Front", "autoscaling_config": OWN_POLICY}]},
}
"""By service: what makes Serve build the whole application again."""


class Packages:
    """Every folder is the test's application; that of `other` differs by a comment."""

    def __init__(self) -> None:
        self.here = _zipped(FIELDS.read_bytes())
        self.other = _zipped(FIELDS.read_bytes() + b"\n# Says the same in more words.\n")

    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        return _digest(self.other if path == "other" else self.here)


def _zipped(code: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("fields.py", (1980, 1, 1, 0, 0, 0)), code)
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


PACKAGES = Packages()


def application(*parts: str, deployments: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    names = list(parts or ("Front",))
    return {
        "import_path": "fields:build",
        "args": {"parts": names},
        "runtime_env": {"working_dir": "."},
        "deployments": [{"name": name} for name in names] if deployments is None else deployments,
    }


def desired(applications: Mapping[str, dict[str, Any]]) -> dict[str, DesiredService]:
    """Return the services as specs with these applications say, through the whole of the parser."""
    files = {
        f"{name}.yaml": json.dumps(
            {
                "apiVersion": "heliostat.dev/v1alpha1",
                "kind": "Service",
                "metadata": {"name": name},
                "spec": {"application": wanted, "maxRequestDuration": "5s"},
            }
        ).encode()
        for name, wanted in applications.items()
    }
    read: Desired = read_desired(COMMIT, files, PACKAGES)
    assert read.errors == ()
    return {service.name: service for service in read.services}


def entry(service: DesiredService, name: str) -> ServeApplication:
    """Return what is PUT for a service, under the name of its first revision."""
    revision = service.revision
    scales = {deployment.name: deployment.scale for deployment in revision.deployments}
    is_autoscaled = any(isinstance(scale, AutoScale) for scale in scales.values())
    key = CellKey(service=service.name, revision=name, generation=1)
    config = json.loads(compose_config(revision, key, "http://127.0.0.1:8080", autoscaled=is_autoscaled))
    for deployment in config["deployments"]:
        match scales[deployment["name"]]:
            case FixedScale(replicas=count):
                deployment["num_replicas"] = count
            case AutoScale(min_replicas=low, max_replicas=high):
                deployment["autoscaling_config"] |= {"min_replicas": low, "max_replicas": high}
    return ServeApplication(name=key.name, config=json.dumps(config))


@dataclass(kw_only=True)
class Cluster:
    """Puts specs on the cluster and looks at replica ids."""

    adapters: RayAdapters
    names: dict[str, str]

    async def put(self, services: Mapping[str, DesiredService]) -> None:
        for content in (PACKAGES.here, PACKAGES.other):
            await self.adapters.packages.upload(f"gcs://_ray_pkg_{_digest(content)}.zip", content)
        for name, service in services.items():
            self.names.setdefault(name, service.revision.id)
        entries = tuple(entry(service, self.names[name]) for name, service in services.items())
        await self.adapters.serve.put(PutServeConfig(applications=entries, removed=frozenset()))

    async def settled(self, *, running: Mapping[str, int] | None = None) -> dict[str, dict[str, frozenset[str]]]:
        """Return replica ids by service and deployment, once every application runs and nothing starts or stops."""
        deadline = time.monotonic() + SETTLED_WITHIN
        while True:
            seen = await self._look(deadline)
            if all(is_settled(cell, (running or {}).get(cell.name.split(".")[0], 1)) for cell in seen.cells):
                return {
                    cell.name.split(".")[0]: {
                        deployment.name: frozenset(replica.id for replica in deployment.replicas)
                        for deployment in cell.deployments
                    }
                    for cell in seen.cells
                }
            failed = [cell.message for cell in seen.cells if cell.status is CellStatus.DEPLOY_FAILED]
            assert not failed, failed
            assert time.monotonic() < deadline, seen.cells
            await asyncio.sleep(0.5)

    async def _look(self, deadline: float) -> ServeSeen:
        """Read Serve, again and again while a dozen starting applications keep it from answering."""
        while True:
            try:
                return await self.adapters.serve.read()
            except Retry:
                if time.monotonic() > deadline:
                    raise


def is_settled(cell: CellSeen, replicas: int) -> bool:
    return (
        cell.status is CellStatus.RUNNING
        and bool(cell.deployments)
        and all(
            deployment.count(ReplicaState.RUNNING) >= replicas
            and deployment.count(ReplicaState.RUNNING) == len(deployment.replicas)
            for deployment in cell.deployments
        )
    )


def merged(base: dict[str, Any], change: Change) -> dict[str, Any]:
    return {**deepcopy(base), **deepcopy(dict(change))}


@pytest.fixture
def cluster(ray_adapters: RayAdapters) -> Cluster:
    return Cluster(adapters=ray_adapters, names={})


@pytest.fixture
def node_with_gpus(ray_cluster: EmbeddedCluster) -> Iterator[None]:
    """Add a node that offers what Ray counts and nobody here uses; what ran on it ends before it does."""
    node = ray_cluster.add_node("a", gpus=1, resources={f"accelerator_type:{ACCELERATOR}": 1})
    yield
    empty_serve(ray_cluster.dashboard_url)
    ray_cluster.kill_node(node.ip)


async def test_the_same_id_keeps_every_replica(cluster: Cluster) -> None:
    specs = {
        "options": application(deployments=[{"name": "Front", "user_config": {"threshold": 1}}]),
        "bounds": application(deployments=[{"name": "Front", "autoscaling_config": {"max_replicas": 2}}]),
        "count": application(deployments=[{"name": "Front", "num_replicas": 1}]),
        "own-scaling": {**application(), "args": {"parts": ["Front"], "autoscaled": ["Front"]}},
        "listing": application("Front", "Back", deployments=[]),
        "spelling": application(
            "Front",
            "Back",
            deployments=[{"name": "Front", "ray_actor_options": {"num_cpus": 0}}, {"name": "Back", "num_replicas": 1}],
        ),
    }
    first = desired(specs)
    await cluster.put(first)
    before = await cluster.settled()

    specs["options"]["deployments"] = [{"name": "Front", **IN_PLACE}]
    specs["options"]["logging_config"] = {"log_level": "WARNING"}
    specs["bounds"]["deployments"] = [{"name": "Front", "autoscaling_config": dict(AUTOSCALING_IN_PLACE)}]
    specs["count"]["deployments"] = [{"name": "Front", "num_replicas": 2}]
    specs["listing"]["deployments"] = [{"name": "Back", "num_replicas": 1}, {"name": "Front"}]
    specs["spelling"]["deployments"] = [
        {"name": "Back", "num_replicas": 1, "ray_actor_options": None},
        {"ray_actor_options": {"num_cpus": 0.0, "resources": {}, "memory": None}, "name": "Front"},
    ]
    specs["own-scaling"]["deployments"] = [{"name": "Front", "num_replicas": 2}]
    second = desired(specs)
    assert {name: service.revision.id for name, service in second.items()} == {
        name: service.revision.id for name, service in first.items()
    }
    assert {name for name in specs if in_place_differs(first[name].revision, second[name].revision)} == {
        "options",
        "bounds",
        "own-scaling",
        "listing",
    }

    await cluster.put(second)
    await asyncio.sleep(3)  # Serve's control loop must have seen the change before its rest means anything.
    after = await cluster.settled(running={"bounds": 2, "count": 2, "own-scaling": 2})
    for name, deployments in before.items():
        for deployment, ids in deployments.items():
            assert ids <= after[name][deployment], f"{name}/{deployment} restarted"
    assert len(after["count"]["Front"]) == 2
    assert len(after["own-scaling"]["Front"]) == 2
    assert len(after["bounds"]["Front"]) == 2


@pytest.mark.slow  # The other direction, a rollout that nobody needs, is the lesser evil.
@pytest.mark.usefixtures("node_with_gpus")
async def test_another_id_restarts_just_what_the_field_is_about(cluster: Cluster) -> None:
    parts = ("Front", *RESTARTING)
    specs = {
        "parts": application(
            *parts, deployments=[{"name": name, "ray_actor_options": {"num_cpus": 0.01}} for name in parts]
        ),
        **{name: application() for name in REBUILDING},
        "policy": application(deployments=[{"name": "Front", "autoscaling_config": BOUNDS}]),
    }
    first = desired(specs)
    await cluster.put(first)
    before = await cluster.settled()

    for number, deployment in enumerate(parts[1:], start=1):
        one = deepcopy(specs)
        one["parts"]["deployments"][number] |= RESTARTING[deployment]
        assert desired(one)["parts"].revision.id != first["parts"].revision.id, deployment
        specs["parts"]["deployments"][number] |= RESTARTING[deployment]
    changed = {"parts": specs["parts"], **{name: merged(specs[name], REBUILDING[name]) for name in REBUILDING}}
    second = desired(changed)
    for name in changed:
        assert second[name].revision.id != first[name].revision.id, name

    await cluster.put(second)
    await asyncio.sleep(3)
    after = await cluster.settled()
    assert after["parts"]["Front"] == before["parts"]["Front"]
    for deployment in RESTARTING:
        assert not after["parts"][deployment] & before["parts"][deployment], f"{deployment} was kept"
    for name in REBUILDING:
        assert not after[name]["Front"] & before[name]["Front"], f"{name} was kept"
