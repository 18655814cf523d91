"""Weights onto the nodes of a Ray cluster, ahead of replicas: one Ray task per node, each bound to its node.

As a program it is what a Ray job runs: `python -m loaders.safetensors.stage_nodes URI... [--nodes ID,ID]`. It prints
one JSON document per line (how far all nodes are, every two seconds, and what became of each URI on each node), and
ends with 1 if a node has not got everything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from loaders.safetensors.errors import LoadError
from loaders.safetensors.stage_here import NodeStaged, Told, stage_here

TOLD_EVERY = 1.0
"""Seconds between two words of a node on how far it is."""

PRINTED_EVERY = 2.0
"""Seconds between two lines on how far all are: a log that is read whole must stay short."""


@dataclass(frozen=True, kw_only=True)
class Far:
    """How many bytes of one URI are on a node, of how many."""

    uri: str
    done: int
    size: int


def stage_each(uris: Sequence[str], region: str | None, until: float | None) -> Iterator[Far | NodeStaged]:
    """Run on one node: stage one URI after the other and say how that is getting on. `until` is a time since 1970."""
    for uri in uris:
        left = None if until is None else max(0.1, until - time.time())  # noqa: TID251  # the driver's clock counts
        yield from _stage_one(uri, region, left)


def _stage_one(uri: str, region: str | None, timeout: float | None) -> Iterator[Far | NodeStaged]:
    far, ended = [(0, 0)], threading.Event()
    result: list[NodeStaged] = []

    def told(done: int, size: int) -> None:
        far[0] = (done, size)

    def run() -> None:
        try:
            staged = stage_here(uri, region, timeout, told)
            result.append(NodeStaged(node="", uri=uri, staged=staged))
        except Exception as error:  # whatever it is, the node's other weights and the other nodes go on
            result.append(NodeStaged(node="", uri=uri, error=str(error)))
        finally:
            ended.set()

    threading.Thread(target=run, name="weights-stage-node", daemon=True).start()
    last = (0, 0)
    while not ended.wait(TOLD_EVERY):
        if far[0] != last:
            last = far[0]
            yield Far(uri=uri, done=last[0], size=last[1])
    yield from result


def stage_there(
    uri: str, nodes: Sequence[str] | None, region: str | None, timeout: float | None, told: Told | None
) -> tuple[NodeStaged, ...]:
    """Stage on these nodes, by default on every one that has CPUs, and wait for all: see `stage`."""
    if not ray.is_initialized():
        raise LoadError("cannot be staged on nodes before ray.init()", uri=uri)
    staging = _Staging([uri], [nodes] if isinstance(nodes, str) else nodes, region, timeout)
    ended = []
    for each in staging.results():
        if each is not None:
            ended.append(each)
        if told is not None:
            far = staging.progress()
            told(far["done"], far["size"])
    return tuple(sorted(ended, key=lambda each: each.node))


class _Staging:
    """Tasks on nodes, and how far each is with each URI."""

    def __init__(
        self, uris: Sequence[str], nodes: Sequence[str] | None, region: str | None, timeout: float | None
    ) -> None:
        self._uris, self._timeout = uris, timeout
        until = None if timeout is None else time.time() + timeout  # noqa: TID251  # told to other machines
        self._until = None if timeout is None else time.monotonic() + timeout
        task = ray.remote(num_cpus=0, max_retries=0, num_returns="streaming")(stage_each)
        self._running: dict[Any, str] = {}
        self._refused: dict[str, str] = {}
        for node in dict.fromkeys(nodes if nodes is not None else workers()):
            try:
                bound = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
            except ValueError as error:  # what is no id keeps nobody from theirs
                self._refused[node] = str(error)
                continue
            self._running[task.options(scheduling_strategy=bound).remote(list(uris), region, until)] = node
        self._nodes = len(self._running) + len(self._refused)
        self._far: dict[tuple[str, str], tuple[int, int]] = {}
        self._ended: set[tuple[str, str]] = set()

    def progress(self) -> dict[str, int]:
        """Return how far all nodes are together; a size is known once a node has begun with a URI."""
        done, size = (sum(each[which] for each in self._far.values()) for which in (0, 1))
        return {"done": done, "size": size, "nodes": self._nodes, "ended": self._nodes - len(self._running)}

    def results(self) -> Iterator[NodeStaged | None]:
        """Yield what becomes of each URI on each node as it ends, and `None` now and then in between."""
        for node, error in self._refused.items():
            yield from self._lost(node, error)
        while self._running:
            left = PRINTED_EVERY if self._until is None else min(PRINTED_EVERY, self._until - time.monotonic())
            ready, _ = ray.wait(list(self._running), timeout=max(0.0, left))
            if not ready and left <= 0:
                yield from self._given_up()
                return
            for waiting in ready:
                yield from self._next(waiting)
            yield None

    def _next(self, waiting: Any) -> Iterator[NodeStaged]:
        node = self._running[waiting]
        try:
            said = ray.get(next(waiting))
        except StopIteration:
            del self._running[waiting]
            return
        except ray.exceptions.RayError as error:
            del self._running[waiting]
            yield from self._lost(node, str(getattr(error, "cause", None) or error))
            return
        if isinstance(said, Far):
            self._far[node, said.uri] = (said.done, said.size)
            return
        self._ended.add((node, said.uri))
        if said.staged is not None:
            self._far[node, said.uri] = (said.staged.size, said.staged.size)
        yield dataclasses.replace(said, node=node)

    def _lost(self, node: str, error: str) -> Iterator[NodeStaged]:
        for uri in self._uris:
            if (node, uri) not in self._ended:
                yield NodeStaged(node=node, uri=uri, error=error)

    def _given_up(self) -> Iterator[NodeStaged]:
        for waiting, node in self._running.items():
            ray.cancel(waiting, force=True)
            yield from self._lost(node, f"not staged after {self._timeout:g} s")


def workers() -> list[str]:
    """Return the nodes that replicas can run on."""
    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))


def main() -> None:
    """Stage what the command line says; print how far that is, and what became of each URI on each node."""
    parser = argparse.ArgumentParser(description="Put weights into the caches of Ray nodes.")
    parser.add_argument("uris", nargs="+")
    parser.add_argument("--nodes", help="Ray node ids, separated by commas; by default every node with CPUs")
    parser.add_argument("--region")
    parser.add_argument("--timeout", type=float, help="seconds")
    given = parser.parse_args()
    ray.init(log_to_driver=False)
    nodes = given.nodes.split(",") if given.nodes else None
    staging = _Staging(given.uris, nodes, given.region, given.timeout)
    failed, printed = False, 0.0
    for each in staging.results():
        if each is not None:
            failed = failed or each.error is not None
            print(json.dumps(dataclasses.asdict(each)), flush=True)
        elif time.monotonic() - printed >= PRINTED_EVERY:
            printed = time.monotonic()
            print(json.dumps({"progress": staging.progress()}), flush=True)
    print(json.dumps({"progress": staging.progress()}), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
