"""Weights on nodes ahead of the replicas: what is to be staged, and how that is getting on.

Staging helps a rollout and is never waited for: what is not on a node when a replica starts, the replica fetches.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

PROGRAM = "-m loaders.safetensors.stage_nodes"


class StagingState(StrEnum):
    """Where a staging stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Bytes in the nodes' caches, of those that are known to be wanted, and how many nodes have ended."""

    done: int = 0
    size: int = 0
    nodes: int = 0
    ended: int = 0


@dataclass(frozen=True, kw_only=True)
class StagingJob:
    """One program on the cluster that brings a revision's weights to nodes. `name` is the same at each try.

    `nodes` are Ray's ids, none for all that have CPUs; `runtime_env` is the JSON of what the replicas have, so that
    the same credentials, library and cache folder are used. It may hold secrets.
    """

    name: str
    service: str
    revision: str
    uris: tuple[str, ...]
    nodes: tuple[str, ...]
    python: str
    runtime_env: str = field(default="{}", repr=False)


@dataclass(frozen=True, kw_only=True)
class StagingSeen:
    """A staging as it was last looked at."""

    job: str
    state: StagingState
    at: datetime
    progress: Progress = Progress()
    message: str = ""
    """Why it failed, or cannot be looked at."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """How the staging of a rollout ended, as it is remembered."""

    job: str
    revision: str
    state: StagingState
    progress: Progress = Progress()
    message: str = ""


def command_line(
    uris: Iterable[str], nodes: Sequence[str], *, python: str, timeout: timedelta | None, region: str | None = None
) -> str:
    """Return what the job runs. Every word is quoted: Ray gives it to a shell."""
    within = None if timeout is None else f"{timeout.total_seconds():g}"
    options = {"--nodes": ",".join(nodes), "--region": region, "--timeout": within}
    given = [f"{name}={value}" for name, value in options.items() if value]
    return " ".join([shlex.quote(python), PROGRAM, *(shlex.quote(word) for word in [*given, "--", *uris])])


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the program has printed so far: how far it is, and each node's results."""

    progress: Progress
    results: tuple[Mapping[str, Any], ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """Return one line per reason why nodes have not got everything: hundreds of nodes mostly share one."""
        nodes: dict[str, dict[str, None]] = {}
        for found in self.results:
            if found.get("error"):
                nodes.setdefault(str(found["error"]), {})[found["node"][:12]] = None
        return tuple(f"{_some(list(each))}: {error}" for error, each in nodes.items())


def _some(nodes: Sequence[str]) -> str:
    return nodes[0] if len(nodes) == 1 else f"{nodes[0]} and {len(nodes) - 1} more node(s)"


def read_output(output: str) -> Said:
    """Read what the program prints; the rest of its output is Ray's, and its last line may be still in the making."""
    progress, results = Progress(), []
    for line in output.splitlines():
        found = _document(line)
        if isinstance(found.get("progress"), dict):
            progress = _progress(found["progress"])
        elif isinstance(found.get("node"), str):
            results.append(found)
    return Said(progress=progress, results=tuple(results))


def _document(line: str) -> Mapping[str, Any]:
    if not line.startswith(('{"node"', '{"progress"')):
        return {}
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _progress(found: Mapping[str, Any]) -> Progress:
    names = ("done", "size", "nodes", "ended")
    return Progress(**{name: count for name in names if isinstance(count := found.get(name), int)})
