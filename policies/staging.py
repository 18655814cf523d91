"""Staging: which weights are to be on which nodes for the rollout that runs, and what became of it.

Nothing waits for it and nothing fails by it: a replica that finds no weights on its node fetches them itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from policies.recall import recalled
from policies.view import ServiceView
from specs.decisions import NoteStaging
from specs.memory import ServiceMemory
from specs.observed import Node
from specs.selectors import matches
from specs.staging import Staged, StagingState

NAMED = "heliostat-stage"


def job_of(memory: ServiceMemory) -> str | None:
    """Return the name of the running rollout's staging; None where there is nothing to stage.

    It is the same after a restart of the daemon, so that a job that was begun is found and not begun again.
    """
    record = memory.revision(memory.candidate) if memory.candidate is not None else None
    if memory.rollout is None or record is None or not record.stage:
        return None
    return f"{NAMED}-{memory.name}-{record.id}-{memory.rollout.started_at:%Y%m%dt%H%M%S}"


def is_over(memory: ServiceMemory) -> bool:
    """Return whether the running rollout's staging has ended."""
    return memory.staged is not None and memory.staged.job == job_of(memory)


@recalled
def note_staged(view: ServiceView) -> tuple[NoteStaging, ...]:
    """Return how the staging ended, once."""
    job = job_of(view.memory)
    seen = view.observed.outward.staging(job) if job is not None else None
    if job is None or seen is None or seen.state is StagingState.RUNNING or is_over(view.memory):
        return ()
    staged = Staged(
        job=job,
        revision=view.memory.candidate or "",
        state=seen.state,
        progress=seen.progress,
        message=seen.message,
    )
    return (NoteStaging(service=view.name, staged=staged),)


@recalled
def suitable_nodes(view: ServiceView) -> tuple[Node, ...]:
    """Return the nodes on which some deployment of the candidate may run, by labels and by size.

    Which deployment loads the weights is not known. What nodes have free is not asked: that changes by the second.
    """
    cells = view.cells_of(view.memory.candidate)
    asked = [options for cell in cells for options in _asked(json.loads(cell.memory.config))]
    usable = [node for node in view.observed.nodes if node.is_alive and not node.is_draining]
    return tuple(node for node in usable if any(_may_run(node, options) for options in asked or [{}]))


def _asked(application: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return [listed.get("ray_actor_options") or {} for listed in application.get("deployments") or ()]


def _may_run(node: Node, options: Mapping[str, Any]) -> bool:
    needs = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus"), **(options.get("resources") or {})}
    room = all(node.resources.get(name, 0.0) >= float(need) for name, need in needs.items() if need)
    return room and node.resources.get("CPU", 0.0) > 0 and matches(node.labels, options.get("label_selector") or {})
