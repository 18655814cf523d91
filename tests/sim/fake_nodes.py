"""A simulated cluster's nodes, and the packages that it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from reconciler.errors import Retry
from reconciler.ports import Clock
from specs.observed import Node
from specs.placement import MARKET_LABEL

ZONE = "ray.io/availability-zone"

PACKAGE_LIFE = timedelta(minutes=10)
"""Ray drops a package that nothing uses this long after it was uploaded or asked for."""


def make_node(number: int, zone: str, *, cpus: float = 4.0, gpus: float = 0.0, market: str = "") -> Node:
    """Return a worker node as Ray would list it."""
    return Node(
        id=f"node{number}",
        ip=f"127.0.1.{number}",
        is_alive=True,
        is_head=False,
        is_draining=False,
        labels={ZONE: zone} | ({MARKET_LABEL: market} if market else {}),
        resources={"CPU": cpus, "GPU": gpus},
    )


@dataclass(kw_only=True)
class FakeNodes:
    """ports.Nodes whose nodes tests add, kill, drain and bring back."""

    nodes: dict[str, Node] = field(default_factory=dict)
    outage: str = ""

    @classmethod
    def in_zones(cls, *zones: str, cpus: float = 4.0, gpus: float = 0.0) -> FakeNodes:
        """Return one worker node per zone."""
        made = (make_node(number, zone, cpus=cpus, gpus=gpus) for number, zone in enumerate(zones, start=1))
        return cls(nodes={node.id: node for node in made})

    async def read(self) -> tuple[Node, ...]:
        """Return all nodes, dead ones included, as Ray does for a while."""
        if self.outage:
            raise Retry(self.outage)
        return tuple(node for _, node in sorted(self.nodes.items()))

    def usable(self) -> tuple[Node, ...]:
        """Return the nodes on which replicas may start."""
        return tuple(node for _, node in sorted(self.nodes.items()) if node.is_alive and not node.is_draining)

    def add(self, node: Node) -> None:
        """Add a node, or bring a dead one back."""
        self.nodes[node.id] = node

    def kill(self, node_id: str) -> None:
        """Take a node's power away."""
        self.nodes[node_id] = replace(self.nodes[node_id], is_alive=False)

    def drain(self, node_id: str) -> None:
        """Let no new replica onto a node; Serve moves the others away."""
        self.nodes[node_id] = replace(self.nodes[node_id], is_draining=True)


@dataclass(kw_only=True)
class FakePackages:
    """ports.Packages that forgets what nobody asks for, as Ray does."""

    clock: Clock
    outage: str = ""
    uploads: list[str] = field(default_factory=list)
    _kept: dict[str, datetime] = field(default_factory=dict)

    async def has(self, uri: str) -> bool:
        """Return whether the package is there; asking keeps it."""
        self._refuse()
        expiry = self._kept.get(uri)
        if expiry is None or expiry < self.clock.now():
            self._kept.pop(uri, None)
            return False
        self._kept[uri] = self.clock.now() + PACKAGE_LIFE
        return True

    async def upload(self, uri: str, content: bytes) -> None:
        """Keep a package."""
        self._refuse()
        self.uploads.append(uri)
        self._kept[uri] = self.clock.now() + PACKAGE_LIFE

    def lose(self) -> None:
        """Forget everything, as a restarted head does."""
        self._kept.clear()

    def _refuse(self) -> None:
        if self.outage:
            raise Retry(self.outage)
