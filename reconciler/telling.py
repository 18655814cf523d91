"""Memory beside the loop's own: saved together with the event that tells of it."""

from __future__ import annotations

from dataclasses import replace

import structlog

from reconciler.ports import Store
from specs.effects import SaveMemory
from specs.memory import Event

log = structlog.get_logger("heliostat")


async def save_telling(store: Store, change: SaveMemory, told: Event) -> int:
    """Save a change before anything is done about it; return the id of its event, 0 when that is of no kind.

    It is logged once it is saved: what is not is not true yet.
    """
    event = await store.save(replace(change, events=(told,) if told.kind else ()))
    if told.kind:
        (log.warning if told.is_warning else log.info)(told.kind, message=told.message, by=told.by)
    return event
