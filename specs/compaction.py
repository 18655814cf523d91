"""Compaction: what a cluster allows, what is remembered of it, and what people see of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from specs.windows import Window


@dataclass(frozen=True, kw_only=True)
class NodePrice:
    """What a node costs whose labels match (as in Ray's label selectors)."""

    match: Mapping[str, str]
    price: float


@dataclass(frozen=True, kw_only=True)
class CompactionSettings:
    """What the ClusterPolicy says. Prices are in a unit of the user's; a node without one costs 1."""

    enabled: bool = False
    windows: tuple[Window, ...] = ()
    """When nodes may be emptied, within the hours in which rollouts may move; always when empty."""
    min_saving: float = 1.0
    settle: timedelta = timedelta(minutes=5)
    """What has changed its replicas more lately than this is not moved."""
    stall_after: timedelta = timedelta(minutes=10)
    """A drain without any progress for this long is given up."""
    max_nodes_at_once: int = 1
    price_label: str = ""
    """A node label that holds its price; "" when there is none."""
    prices: tuple[NodePrice, ...] = ()
    """Prices by labels; the first that matches counts, after the label."""
    policy: str = "nodes"
    """Who has a say in which node is emptied next."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Something on a node that Serve does not report: an actor, or a bundle of a placement group."""

    node: str
    what: str
    """For a person: its class or name."""
    resources: Mapping[str, float] = field(default_factory=dict)


class DrainState(StrEnum):
    """How far a node is."""

    ASKED = "asked"
    """The intent is saved; Ray may or may not have been told yet."""
    DRAINING = "draining"
    """Ray has accepted: it takes no new replicas, and Serve replaces those on it elsewhere first."""
    EMPTY = "empty"
    """Nothing of Serve is on it any more; it is to be released."""


@dataclass(frozen=True, kw_only=True)
class NodeDrain:
    """A node that is being emptied. Ray cannot take a drain back: what was begun ends, or is given up."""

    node: str
    ip: str
    since: datetime
    state: DrainState
    replicas: int
    """How many replicas were on it at the last look."""
    progress_at: datetime
    patience: timedelta = timedelta(0)
    """How long a replica on it may take to stop: the longest request of the services that it serves."""
    by: str = "heliostat"


@dataclass(frozen=True, kw_only=True)
class GivenUp:
    """A node that could not be emptied or released; it is not tried again before `until`."""

    node: str
    ip: str
    at: datetime
    until: datetime
    why: str
    is_draining: bool = False
    """Ray was told already: it takes nothing new until it is restarted."""


@dataclass(frozen=True, kw_only=True)
class Emptied:
    """A node that is free, but on which Ray has not ended yet. It takes nothing new; `told_at` is the last attempt."""

    node: str
    ip: str
    told_at: datetime
    tries: int = 0
    """How often Ray was made to end on it, in vain."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A person's `heliostat compaction --apply`: carry the plan out once, whatever `enabled` says."""

    by: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class CompactionMemory:
    """What must survive a `kill -9`."""

    drains: tuple[NodeDrain, ...] = ()
    given_up: tuple[GivenUp, ...] = ()
    emptied: tuple[Emptied, ...] = ()
    order: Order | None = None
    freed: int = 0
    """Nodes freed so far."""

    @property
    def closed(self) -> frozenset[str]:
        """Return the nodes that take nothing new any more though nothing leaves them: given up halfway, or empty."""
        halfway = (entry.node for entry in self.given_up if entry.is_draining)
        return frozenset([*halfway, *(entry.node for entry in self.emptied)])

    def drain(self, node: str) -> NodeDrain | None:
        """Return the drain of a node, or None."""
        return next((drain for drain in self.drains if drain.node == node), None)


@dataclass(frozen=True, kw_only=True)
class PlannedNode:
    """One node of a plan; `why` says why it stays, "" when it would go."""

    node: str
    ip: str
    zone: str
    market: str
    price: float
    replicas: int
    goes: bool
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class PlannedMove:
    """Replicas that would move: `count` of a deployment of a cell."""

    cell: str
    deployment: str
    origin: str
    target: str
    count: int


@dataclass(frozen=True, kw_only=True)
class CompactionStatus:
    """The JSON of `GET /api/v1/compaction`."""

    state: str
    """`Off`, `Blind`, `Waiting`, `Compact`, `Ready` or `Draining`."""
    message: str
    enabled: bool
    at: datetime | None = None
    cost: float = 0.0
    cost_after: float = 0.0
    bound: float = 0.0
    """No plan can cost less than this."""
    gap: float = 0.0
    """By how much the plan may be above the best, as a fraction; 0 when it is the best."""
    is_best: bool = False
    nodes: tuple[PlannedNode, ...] = ()
    moves: tuple[PlannedMove, ...] = ()
    reserves: tuple[str, ...] = ()
    """What room stays free, for rollouts."""
    policy: str = ""
    """The policy of another package that has a say; "" when none has."""
    wish: str = ""
    """What it wished for this plan, or why it has no part in it, in words."""
    drains: tuple[NodeDrain, ...] = ()
    given_up: tuple[GivenUp, ...] = ()
    freed: int = 0
