"""Who lends the nodes: the part of the daemon's settings that says how an emptied node is given back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reconciler.trust_settings import Option

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class NodeProviderKind(StrEnum):
    """Who lends the nodes."""

    NONE = "none"
    """Nobody: a drained node leaves the Ray cluster, and its machine is the user's."""
    KUBERAY = "kuberay"
    """A RayCluster of KubeRay."""


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """The fields of `Settings` about nodes. Each is also a flag, an environment variable and a TOML key."""

    node_provider: NodeProviderKind = NodeProviderKind.NONE
    cluster_python: str = "python"
    """The Python on the cluster's head that has Ray: it drains nodes."""
    kuberay_cluster: str = ""
    """The name of the RayCluster."""
    kuberay_namespace: str = ""
    """Its namespace; "" is the daemon's own, inside Kubernetes."""


OPTIONS = (
    Option(name="node_provider", metavar="none|kuberay", help="Who takes emptied nodes back.  [default: none]"),
    Option(name="cluster_python", metavar="COMMAND", help="The Python on Ray's head that drains.  [default: python]"),
    Option(name="kuberay_cluster", metavar="NAME", help="The RayCluster that the nodes belong to."),
    Option(name="kuberay_namespace", metavar="NAME", help="Its namespace.  [default: the daemon's own]"),
)


def _kind(text: object) -> NodeProviderKind:
    try:
        return NodeProviderKind(str(text))
    except ValueError:
        raise ValueError(f"write one of {', '.join(NodeProviderKind)}") from None


def _name(text: object) -> str:
    if not _NAME.fullmatch(str(text)):
        raise ValueError("write a name as Kubernetes has them: lower-case letters, digits, dashes and dots")
    return str(text)


NODE_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "node_provider": _kind,
    "cluster_python": str,
    "kuberay_cluster": _name,
    "kuberay_namespace": _name,
}
