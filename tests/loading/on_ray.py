"""Runs as a Ray job: one node stages a URI alone, then three at once another one, each with a cache of its own.

`python on_ray.py SMALL ALONE TOGETHER FOLDER` prints one JSON document: what each node brought, and in which time.
`SMALL` is staged first by everyone, so that what is timed is neither the tracker's start nor an import.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from loaders.safetensors.stage import stage
from loaders.safetensors.stage_nodes import workers

NOBODY = ("f" * 56, "ab" * 28, "none")
"""What Ray calls no id at all, an id of no node, and what is none."""


class Place:
    """A process on one node. It stays, as a replica does, so that its node goes on serving."""

    def stage(self, url: str) -> dict[str, object]:
        return dataclasses.asdict(stage(url, timeout=60))


def place(node: str, folder: Path) -> object:
    environment = {"HELIOSTAT_CACHE_DIR": str(folder / node[:8])}
    bound = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": bound, "runtime_env": {"env_vars": environment}}
    return ray.remote(Place).options(**options).remote()


def staged(folder: Path, nodes: list[str], small: str, url: str) -> list[object]:
    places = [place(node, folder) for node in nodes]
    ray.get([each.stage.remote(small) for each in places])  # type: ignore[attr-defined]
    found: list[object] = ray.get([each.stage.remote(url) for each in places])  # type: ignore[attr-defined]
    for each in places:
        ray.kill(each)
    return found


def main() -> None:
    small, alone, together, folder = sys.argv[1:]
    # What is staged by tasks goes where the job says, what actors stage where each of them says.
    everywhere = {"HELIOSTAT_CACHE_DIR": str(Path(folder) / "tasks")}
    ray.init(log_to_driver=False, runtime_env={"env_vars": everywhere})
    nodes = workers()[:3]
    told: list[tuple[int, int]] = []
    by_tasks = stage(small, nodes=[*nodes, *NOBODY], timeout=60, told=lambda done, size: told.append((done, size)))
    found: dict[str, object] = {
        "alone": staged(Path(folder) / "alone", nodes[:1], small, alone),
        "together": staged(Path(folder) / "together", nodes, small, together),
        "by tasks": [dataclasses.asdict(each) for each in by_tasks],
        "told": told[-1],
        "all": sorted(each.node for each in stage(small, nodes="all", timeout=60) if each.staged) == workers(),
    }
    print(json.dumps(found), flush=True)
    # The tracker outlives jobs, but this cluster is the next test's.
    ray.kill(ray.get_actor("heliostat-weights", namespace="heliostat"))


if __name__ == "__main__":
    main()
