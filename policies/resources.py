"""Room on the nodes: what a replica needs, what is free, and whether a candidate waits for it.

Serve decides where a replica goes. Only when it has left one without a node for a while (and says so) is the
arithmetic asked, and only for an explanation and for patience: what holds resources outside of Serve is not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policies.recall import recalled
from policies.view import CellView, ServiceView
from specs.observed import DeploymentSeen, Node, Observed
from specs.selectors import matches

EPSILON = 1e-6
"""Resources are fractions: 0.1 CPU ten times over is one."""


@dataclass(frozen=True, kw_only=True)
class Shortage:
    """Replicas of one deployment that no node has room for now; an empty node would."""

    deployment: str
    count: int
    needs: Mapping[str, float]
    free: Mapping[str, float]
    """What the fittest node has left of each."""
    nodes: int
    """Nodes that the replica's labels allow."""

    def __str__(self) -> str:
        """Return one line with needed and free per resource."""
        parts = (f"{_amount(self.free.get(name, 0.0), name)} of {_amount(need, name)}" for name, need in self._asked)
        one = "1 replica waits" if self.count == 1 else f"{self.count} replicas wait"
        most = ", ".join(parts)
        return f"{self.deployment}: {one} for room; the fittest of {self.nodes} node(s) has {most} free that each needs"

    @property
    def _asked(self) -> list[tuple[str, float]]:
        return sorted(self.needs.items())


@recalled
def shortages(view: ServiceView, revision: str | None) -> tuple[Shortage, ...]:
    """Return what a revision's replicas wait for room for, by Serve's own word and by arithmetic."""
    cells = view.cells_of(revision)
    waiting = [seen for cell in cells for seen in _unplaced(cell)]
    if not waiting:
        return ()
    free = free_resources(view.observed)
    nodes = {node.id: node for node in usable_nodes(view.observed)}
    return tuple(short for seen in waiting if (short := _shortage(seen, nodes, free)) is not None)


def _unplaced(cell: CellView) -> Iterable[DeploymentSeen]:
    for seen in cell.seen.deployments if cell.seen is not None else ():
        if seen.is_unplaced and any(replica.is_homeless for replica in seen.replicas):
            yield seen


def _shortage(
    seen: DeploymentSeen, nodes: Mapping[str, Node], free: Mapping[str, Mapping[str, float]]
) -> Shortage | None:
    """Return None when a node has room (then it is something else that Serve waits for), or none ever could."""
    allowed = [node for _, node in sorted(nodes.items()) if matches(node.labels, seen.selector)]
    if not any(has_room(seen.needs, node.resources) for node in allowed):
        return None
    if any(has_room(seen.needs, free[node.id]) for node in allowed):
        return None
    best = max(allowed, key=lambda node: _fraction(seen.needs, free[node.id]))
    count = sum(1 for replica in seen.replicas if replica.is_homeless)
    return Shortage(deployment=seen.name, count=count, needs=seen.needs, free=free[best.id], nodes=len(allowed))


def usable_nodes(observed: Observed) -> Iterable[Node]:
    """Return the nodes that new replicas may start on."""
    return (node for node in observed.nodes if node.takes_replicas)


def free_resources(observed: Observed) -> Mapping[str, Mapping[str, float]]:
    """Return what is left of each node's resources once all replicas on it have theirs; stopping ones hold theirs."""
    left = {node.id: Counter(node.resources) for node in usable_nodes(observed)}
    for cell in observed.cells:
        for seen in cell.deployments:
            for replica in seen.replicas:
                if replica.node in left:
                    left[replica.node].subtract(seen.needs)
    return left


def has_room(needs: Mapping[str, float], room: Mapping[str, float]) -> bool:
    """Return whether a replica that needs so much fits into so much."""
    return all(room.get(name, 0.0) >= need - EPSILON for name, need in needs.items())


def _fraction(needs: Mapping[str, float], room: Mapping[str, float]) -> float:
    """Return how much of the scarcest resource is there."""
    return min((room.get(name, 0.0) / need for name, need in needs.items() if need), default=0.0)


def _amount(amount: float, name: str) -> str:
    if name in ("memory", "object_store_memory"):
        return f"{amount / 2**30:.1f} GiB {name}"
    return f"{round(amount, 3):g} {name}"
