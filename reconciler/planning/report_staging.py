"""What status says of weights on their way to nodes."""

from __future__ import annotations

from dataclasses import asdict

from policies.recall import recalled
from policies.staging import is_over, job_of, suitable_nodes
from policies.view import ServiceView
from specs.staging import StagingState
from specs.status import StagingStatus


@recalled
def staging_status(view: ServiceView) -> StagingStatus | None:
    """Return how the running rollout's staging is getting on, or how that of the stable revision ended."""
    memory, job = view.memory, job_of(view.memory)
    if job is not None and not is_over(memory):
        return _running(view, job)
    staged = memory.staged
    record = memory.revision(staged.revision) if staged is not None else None
    if staged is None or record is None or staged.revision not in (memory.candidate, memory.stable):
        return None
    return StagingStatus(
        revision=staged.revision,
        uris=record.stage,
        state=staged.state,
        message=staged.message,
        **asdict(staged.progress),
    )


def _running(view: ServiceView, job: str) -> StagingStatus | None:
    record = view.memory.revision(view.memory.candidate or "")
    if record is None:
        return None
    seen = view.observed.outward.staging(job)
    if seen is None:
        waits = "to be started" if suitable_nodes(view) else "no node fits the revision"
        return StagingStatus(revision=record.id, uris=record.stage, state=StagingState.RUNNING, message=waits)
    return StagingStatus(
        revision=record.id, uris=record.stage, state=seen.state, message=seen.message, **asdict(seen.progress)
    )
