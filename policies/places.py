"""Places on the nodes, as arithmetic: what is free, what becomes free when somebody lets go, what would fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from policies.once import once
from policies.resources import free_resources, has_room, usable_nodes
from specs.observed import DeploymentSeen, Node, Observed, ReplicaState
from specs.selectors import matches

Need = tuple[Mapping[str, float], Mapping[str, str]]
"""What one replica takes, and the labels that its node must have."""


class Places:
    """What each node has left. What is stopping is as good as gone: whoever was given way to is about to have it."""

    def __init__(self, observed: Observed) -> None:
        """Count what is free now, and what stops."""
        self._nodes: dict[str, Node] = {node.id: node for node in usable_nodes(observed)}
        self._left = {node: dict(resources) for node, resources in _left(observed).items()}
        self._gone: set[str] = set()
        """Replicas whose places are counted as free already."""

    def release(self, seen: DeploymentSeen, count: int) -> None:
        """Let go so many replicas of a deployment: Serve stops first those that have no node, then what starts."""
        live = [one for one in seen.replicas if one.state is not ReplicaState.STOPPING]
        going = sorted(live, key=lambda one: (not one.is_homeless, one.state is ReplicaState.RUNNING, one.id))[:count]
        for replica in going:
            if replica.node in self._left and replica.id not in self._gone:
                self._gone.add(replica.id)
                _add(seen.needs, self._left[replica.node])

    def would_fit(self, needs: Iterable[Need]) -> bool:
        """Return whether there is a place for each, the largest first; nothing is taken."""
        left = {node: dict(amounts) for node, amounts in self._left.items()}
        largest_first = sorted(needs, key=lambda need: -sum(need[0].values()))
        return all(self._place(need, left) for need in largest_first)

    def _place(self, need: Need, left: dict[str, dict[str, float]]) -> bool:
        """Take the place of one replica on the first node that has it."""
        amounts, selector = need
        for node in sorted(left):
            if matches(self._nodes[node].labels, selector) and has_room(amounts, left[node]):
                for name, amount in amounts.items():
                    left[node][name] -= amount
                return True
        return False


@once
def _left(observed: Observed) -> Mapping[str, Mapping[str, float]]:
    """Return what each node has left when all that stops has stopped."""
    left = {node: dict(resources) for node, resources in free_resources(observed).items()}
    for cell in observed.cells:
        for seen in cell.deployments:
            for replica in seen.replicas:
                if replica.state is ReplicaState.STOPPING and replica.node in left:
                    _add(seen.needs, left[replica.node])
    return left


def _add(amounts: Mapping[str, float], to: dict[str, float]) -> None:
    for name, amount in amounts.items():
        to[name] = to.get(name, 0.0) + amount
