"""Runs as a Ray job: ranks and partial loads on three nodes, each with a cache of its own, found by the real tracker.

`python parts_on_ray.py parts HELD FRESH FOLDER` takes two URLs. One node loads all of `HELD`; then another one loads a
rank's part of it, and the third one a layer. Of `FRESH` four ranks on two nodes load their parts at once.

`python parts_on_ray.py gone HELD PID FOLDER`: one node loads all of `HELD`; then the origin (a process) is killed, and
the tracker's actor as well. Another node loads a rank's part, and the third one everything.

Both print one JSON document: the digest of every tensor that came, by load.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from loaders.safetensors.peers import HEARTBEAT
from loaders.safetensors.stage_nodes import workers

RULES = {"*norm.weight": None, "embed.weight": 0, "*.down.weight": 1, "*.o.weight": 1, "*": 0}
RANKS = 4
LAYER = "layers.1.*"


class Replica:
    """A process on one node. It stays, so that its node goes on serving."""

    def load(self, url: str, **part: Any) -> dict[str, str]:
        """Return the digest of each tensor's bytes, by name."""
        import torch  # in the replica: the job itself needs none

        from loaders.safetensors.torch import load_file

        def digest(tensor: torch.Tensor) -> str:
            return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()

        return {name: digest(tensor) for name, tensor in load_file(url, timeout=60, **part).items()}


def replica(node: str, folder: Path) -> Any:
    environment = {"HELIOSTAT_CACHE_DIR": str(folder / node[:8]), "HELIOSTAT_CACHE_BYTES": "1G"}
    bound = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(Replica).options(
        num_cpus=0, scheduling_strategy=bound, runtime_env={"env_vars": environment}
    ).remote()  # fmt: skip


def parts(held: str, fresh: str, folder: str) -> dict[str, object]:
    first, second, third = workers()[:3]
    replicas = [replica(node, Path(folder)) for node in (first, second, second, third, third)]
    whole = ray.get(replicas[0].load.remote(held))
    rank, layer = ray.get(
        [replicas[1].load.remote(held, shard=(1, RANKS, RULES)), replicas[3].load.remote(held, tensors=LAYER)]
    )
    ranks = ray.get([each.load.remote(fresh, shard=(number, RANKS, RULES)) for number, each in enumerate(replicas[1:])])
    return {"whole": whole, "rank": rank, "layer": layer, "ranks": ranks}


def gone(held: str, origin: str, folder: str) -> dict[str, object]:
    replicas = [replica(node, Path(folder)) for node in workers()[:3]]
    ray.get(replicas[0].load.remote(held))
    os.kill(int(origin), signal.SIGKILL)
    ray.kill(tracker(), no_restart=False)
    time.sleep(HEARTBEAT + 2)  # until the node has told the new one what it has
    rank = ray.get(replicas[1].load.remote(held, shard=(1, RANKS, RULES)))
    return {"rank": rank, "whole": ray.get(replicas[2].load.remote(held))}


def tracker() -> Any:
    return ray.get_actor("heliostat-weights", namespace="heliostat")


def main() -> None:
    task, *arguments = sys.argv[1:]
    ray.init(log_to_driver=False)
    print(json.dumps({"parts": parts, "gone": gone}[task](*arguments)), flush=True)
    # The tracker outlives jobs, but this cluster is the next test's.
    ray.kill(tracker())


if __name__ == "__main__":
    main()
