"""What a plan rests on: a name for the live state, which changes when a plan made for it may be wrong."""

from __future__ import annotations

import hashlib
from typing import Any

from reconciler.planning.changes import without_place
from specs.canonical import canonical_json
from specs.memory import Memory, ServiceMemory


def live_state(memory: Memory) -> str:
    """Return the name of the state of all services: which revisions they have, at which step, and who is kept out.

    Replicas that come and go, traffic and the time change nothing: a plan survives them.
    """
    services = {name: _state(service) for name, service in sorted(memory.services.items())}
    return hashlib.sha256(canonical_json(services).encode()).hexdigest()[:16]


def _state(service: ServiceMemory) -> dict[str, Any]:
    rollout = service.rollout
    return {
        "wanted": hashlib.sha256(repr(without_place(service.wanted)).encode()).hexdigest(),
        "stable": service.stable,
        "candidate": service.candidate,
        "step": [rollout.step, rollout.is_fast] if rollout is not None else None,
        "outgoing": sorted(outgoing.revision for outgoing in service.outgoing),
        "quarantine": sorted(entry.revision for entry in service.quarantine),
        "pin": [service.pin.revision, service.pin.against] if service.pin is not None else None,
        "paused": service.pause is not None,
        "removed": service.is_removed,
    }
