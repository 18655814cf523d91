"""The cluster's nodes, through Ray's state API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.adapters.ray_rest import RayRest
from reconciler.errors import Retry
from specs.observed import Node
from specs.preemption import Preemption

ROW_LIMIT = "10000"
"""Ray lists at most 100 rows unless told otherwise, and refuses more than 10,000."""


class NodeRow(BaseModel):
    """One row of `GET /api/v0/nodes?detail=1`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    node_id: str
    node_ip: str
    is_head_node: bool = False
    state: str
    state_message: str | None = None
    labels: dict[str, str] | None = None
    resources_total: dict[str, float] | None = None
    start_time_ms: float | None = None

    def to_node(self) -> Node:
        """Say it in our words."""
        return Node(
            id=self.node_id,
            ip=self.node_ip,
            is_alive=self.state == "ALIVE",
            is_head=self.is_head_node,
            is_draining=False,
            labels=dict(sorted((self.labels or {}).items())),
            resources=dict(sorted((self.resources_total or {}).items())),
        )


class _Rows(BaseModel):
    model_config = ConfigDict(extra="ignore")

    total: int
    result: list[NodeRow] = Field(default_factory=list)
    partial_failure_warning: str | None = ""


class RayNodes:
    """ports.Nodes on a Ray cluster."""

    def __init__(self, rest: RayRest) -> None:
        """`rest` is Ray's dashboard."""
        self._rest = rest

    async def read(self) -> tuple[Node, ...]:
        """Return all nodes that are alive or died lately, sorted by id."""
        answer = await self._rest.get("/api/v0/nodes", params={"detail": "1", "limit": ROW_LIMIT})
        rows = _rows(answer.json())
        return tuple(sorted((row.to_node() for row in rows.result), key=lambda node: node.id))


class MarkedNodes:
    """ports.Nodes that also says which nodes drain by our own doing, and which are about to go: Ray does not tell."""

    def __init__(
        self,
        nodes: RayNodes,
        draining: Callable[[], frozenset[str]],
        notices: Callable[[], Mapping[str, Preemption]] = dict,
    ) -> None:
        """`draining` are the ids, `notices` by id."""
        self._nodes = nodes
        self._draining = draining
        self._notices = notices

    async def read(self) -> tuple[Node, ...]:
        """Return the nodes, those marked that are draining."""
        found, draining, notices = await self._nodes.read(), self._draining(), self._notices()
        marked = (replace(node, preemption=notices.get(node.id)) for node in found)
        drained = draining | notices.keys()
        return tuple(replace(node, is_draining=True) if node.id in drained else node for node in marked)


def _rows(document: Any) -> _Rows:
    try:
        if not document["result"]:
            raise Retry(f"Ray cannot list its nodes: {document['msg']}")
        rows = _Rows.model_validate(document["data"]["result"])
    except (KeyError, TypeError, ValidationError):
        raise Retry("Ray's list of nodes cannot be read.") from None
    if rows.partial_failure_warning:
        raise Retry(f"Ray's list of nodes is not complete: {rows.partial_failure_warning}")
    return rows
