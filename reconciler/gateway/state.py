"""What a gateway remembers across daemons, in one JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from reconciler.gateway.clients import ClientState
from reconciler.gateway.crossings import CrossingState
from reconciler.gateway.folder import Folder
from reconciler.gateway.lanes import Lease
from reconciler.gateway.servers import Known
from reconciler.gateway.traffic import LedgerState
from specs.evidence import LatencyCounts
from specs.routes import RouteTable

STATE = "gateway.json"


@dataclass(frozen=True, kw_only=True)
class Running:
    """The HAProxy that was left serving."""

    pid: int
    started: int
    generation: int
    version: str
    lanes: int


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The last table, who holds which lane, the last endpoints, and the counters as last read."""

    running: Running | None = None
    reloads: int = 0
    table: RouteTable = field(default_factory=RouteTable)
    leases: tuple[Lease, ...] = ()
    known: Mapping[str, tuple[Known, ...]] = field(default_factory=dict)
    ledger: LedgerState = field(default_factory=LedgerState)
    clients: ClientState = field(default_factory=ClientState)
    crossings: CrossingState = field(default_factory=CrossingState)
    latency: Mapping[str, LatencyCounts] = field(default_factory=dict)
    """Per cell. HAProxy keeps the counters while a daemon is away; what took how long only the daemon knows."""


_ADAPTER = TypeAdapter(Saved)


def save(folder: Folder, saved: Saved) -> None:
    """Write the state; whole or not at all."""
    folder.write(STATE, _ADAPTER.dump_json(saved, indent=1).decode())


def load(folder: Folder) -> Saved:
    """Return what was saved last; nothing when there is no file, or one of another version."""
    text = folder.read(STATE)
    if text is None:
        return Saved()
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError:
        return Saved()
