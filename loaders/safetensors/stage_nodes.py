"""Weights onto the nodes of a Ray cluster, ahead of replicas: one Ray task per node, each bound to its node.

As a program it is what a Ray job runs: `python -m loaders.safetensors.stage_nodes URI [--nodes ID,ID]`. It prints one
JSON document per line: progress of a node, then its result, and ends with 1 if a node has not got everything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from loaders.safetensors.stage import Staged, stage


@dataclass(frozen=True, kw_only=True)
class NodeStaged:
    """What became of one node: `staged`, or the `error` that says why not."""

    node: str
    staged: Staged | None = None
    error: str | None = None


def stage_here(uri: str, region: str | None, timeout: float | None) -> Staged:
    """Run on one node."""
    return stage(uri, region=region, timeout=timeout)


def stage_on_nodes(
    uri: str, nodes: Sequence[str] | None = None, *, region: str | None = None, timeout: float | None = None
) -> tuple[NodeStaged, ...]:
    """Stage on these nodes (Ray's node ids; by default every node that has CPUs), all at once, and wait for all.

    The nodes share what they fetch, so the origin sends each byte about once. Ray must be initialised.
    """
    return tuple(sorted(_as_they_end(uri, nodes, region, timeout), key=lambda each: each.node))


def _as_they_end(
    uri: str, nodes: Sequence[str] | None, region: str | None, timeout: float | None
) -> Iterator[NodeStaged]:
    task = ray.remote(num_cpus=0, max_retries=0)(stage_here)
    running: dict[Any, str] = {}
    for node in nodes if nodes is not None else workers():
        bound = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        running[task.options(scheduling_strategy=bound).remote(uri, region, timeout)] = node
    until = None if timeout is None else time.monotonic() + timeout
    while running:
        left = None if until is None else max(0.0, until - time.monotonic())
        ended, _ = ray.wait(list(running), timeout=left)
        if not ended:
            for waiting, node in running.items():
                ray.cancel(waiting, force=True)
                yield NodeStaged(node=node, error=f"not staged after {timeout:g} s")
            return
        for reference in ended:
            yield _result(running.pop(reference), reference)


def _result(node: str, reference: Any) -> NodeStaged:
    try:
        return NodeStaged(node=node, staged=ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        return NodeStaged(node=node, error=str(error.cause))
    except ray.exceptions.RayError as error:
        return NodeStaged(node=node, error=str(error))


def workers() -> list[str]:
    """Return the nodes that replicas can run on."""
    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))


def main() -> None:
    """Stage what the command line says and print what became of each node."""
    parser = argparse.ArgumentParser(description="Put weights into the caches of Ray nodes.")
    parser.add_argument("uri")
    parser.add_argument("--nodes", help="Ray node ids, separated by commas; by default every node with CPUs")
    parser.add_argument("--region")
    parser.add_argument("--timeout", type=float, help="seconds")
    given = parser.parse_args()
    ray.init(log_to_driver=False)
    failed = False
    nodes = given.nodes.split(",") if given.nodes else None
    for each in _as_they_end(given.uri, nodes, given.region, given.timeout):
        failed = failed or each.error is not None
        print(json.dumps(dataclasses.asdict(each)), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
