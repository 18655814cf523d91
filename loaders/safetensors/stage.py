"""Weights into the caches of this node or others, ahead of the replicas that will load them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from loaders.safetensors.errors import LoadError
from loaders.safetensors.stage_here import NodeStaged, Staged, Told, stage_here

__all__ = ["NodeStaged", "Staged", "Told", "stage"]


@overload
def stage(
    uri: str,
    nodes: None = None,
    *,
    region: str | None = None,
    timeout: float | None = None,
    told: Told | None = None,
) -> Staged: ...


@overload
def stage(
    uri: str,
    nodes: Literal["all"] | Sequence[str],
    *,
    region: str | None = None,
    timeout: float | None = None,
    told: Told | None = None,
) -> tuple[NodeStaged, ...]: ...


def stage(
    uri: str,
    nodes: Literal["all"] | Sequence[str] | None = None,
    *,
    region: str | None = None,
    timeout: float | None = None,
    told: Told | None = None,
) -> Staged | tuple[NodeStaged, ...]:
    """Put a file, or every file of an index or a folder, into a node's cache; return when it is there in full.

    Without `nodes` that is this node's. Raises a `LoadError` if it is not as it should be, cannot be kept, or is not
    done after `timeout` seconds.

    `nodes` are Ray's node ids, or `"all"` for every node that has CPUs: all of them stage at once and share what they
    fetch, so the origin sends each byte about once. Returns what became of it on each node, in the order of their ids;
    one that fails does not keep the others from getting theirs. Raises a `LoadError` if Ray is not initialised here.
    """
    if nodes is None:
        return stage_here(uri, region, timeout, told)
    try:
        from loaders.safetensors.stage_nodes import stage_there
    except ImportError as missing:
        raise LoadError(f"cannot be staged on nodes without Ray: {missing}", uri=uri) from missing
    return stage_there(uri, None if nodes == "all" else nodes, region, timeout, told)
