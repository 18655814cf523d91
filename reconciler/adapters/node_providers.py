"""Giving nodes back: to nobody, or to KubeRay through the Kubernetes API.

KubeRay makes as many pods of a worker group as its `replicas` say, and on a smaller number removes those that
`scaleStrategy.workersToDelete` names. Both change in one JSON patch that tests what it read, so that two writers (an
autoscaler, say) cannot undo each other.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from reconciler.adapters.kubernetes_secrets import ACCOUNT, KubernetesApi
from reconciler.errors import Retry, Stalled
from specs.observed import Node

ANSWER_WITHIN = 10.0
GROUP_LABEL = "ray.io/group"
CLUSTER_LABEL = "ray.io/cluster"


class NoProvider:
    """`ports.NodeProvider` where nobody takes nodes back: a drained node leaves Ray, and that is all."""

    async def refusal(self, node: Node) -> str:
        """Return that it may go."""
        return ""

    async def release(self, ip: str) -> None:
        """Do nothing: Ray itself ends on the node when it is empty."""


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """Which RayCluster the nodes belong to; the namespace "" is that of the daemon's own pod."""

    name: str
    namespace: str = ""


class KubeRay:
    """`ports.NodeProvider` for one RayCluster."""

    def __init__(
        self, api: KubernetesApi, cluster: RayCluster, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """`transport` is for tests. Raises Stalled when it is not said which RayCluster."""
        if not cluster.name:
            raise Stalled("--node-provider kuberay needs --kuberay-cluster NAME")
        self._api = api
        self._name = cluster.name
        self._namespace = cluster.namespace or _text(ACCOUNT / "namespace", "--kuberay-namespace")
        self._client = httpx.AsyncClient(
            base_url=api.url,
            timeout=ANSWER_WITHIN,
            trust_env=False,
            follow_redirects=False,
            verify=_tls(api),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def refusal(self, node: Node) -> str:
        """Return why KubeRay would make another pod in its place; "" when it would not."""
        pod = await self._pod(node.ip)
        if pod is None:
            return f"the RayCluster {self._name} has no worker pod with the address {node.ip}"
        cluster = await self._cluster()
        return _refusal(cluster, _group_of(pod))

    async def release(self, ip: str) -> None:
        """Lower the group's count by one and name the pod. Raises Stalled when that cannot be."""
        pod = await self._pod(ip)
        if pod is None:
            return
        name, group = str(pod["metadata"]["name"]), _group_of(pod)
        cluster = await self._cluster()
        place, spec = _group(cluster, group)
        named = list(spec.get("scaleStrategy", {}).get("workersToDelete") or [])
        if name in named:
            return
        if why := _refusal(cluster, group):
            raise Stalled(why)
        path = f"/spec/workerGroupSpecs/{place}"
        patch = [
            {"op": "test", "path": f"{path}/groupName", "value": group},
            {"op": "test", "path": f"{path}/replicas", "value": spec["replicas"]},
            {"op": "replace", "path": f"{path}/replicas", "value": spec["replicas"] - 1},
            {"op": "add", "path": f"{path}/scaleStrategy", "value": {"workersToDelete": [*named, name]}},
        ]
        await self._send("PATCH", self._cluster_path, patch)

    async def _pod(self, ip: str) -> dict[str, Any] | None:
        labels = f"{CLUSTER_LABEL}={self._name},ray.io/node-type=worker"
        found = await self._send("GET", f"/api/v1/namespaces/{self._namespace}/pods", params={"labelSelector": labels})
        pods = [pod for pod in found.get("items", []) if pod.get("status", {}).get("podIP") == ip]
        alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        return alive[0] if alive else None

    @property
    def _cluster_path(self) -> str:
        return f"/apis/ray.io/v1/namespaces/{self._namespace}/rayclusters/{self._name}"

    async def _cluster(self) -> dict[str, Any]:
        return await self._send("GET", self._cluster_path)

    async def _send(
        self, method: str, path: str, patch: list[dict[str, Any]] | None = None, *, params: dict[str, str] | None = None
    ) -> dict[str, Any]:
        token = await asyncio.to_thread(_text, self._api.token_file, "--kubernetes-token-file")
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if patch is not None:
            headers["Content-Type"] = "application/json-patch+json"
        try:
            answer = await self._client.request(method, path, json=patch, params=params, headers=headers)
        except httpx.HTTPError as error:
            raise Retry(f"the Kubernetes API cannot be reached: {error or type(error).__name__}") from None
        return _judged(answer, f"{method} {path}")


def _tls(api: KubernetesApi) -> ssl.SSLContext | bool:
    if api.url.startswith("http://"):
        return False
    default = ACCOUNT / "ca.crt"
    chosen = api.ca_file or (default if default.exists() else None)
    return ssl.create_default_context(cafile=str(chosen) if chosen is not None else None)


def _judged(answer: httpx.Response, what: str) -> dict[str, Any]:
    """Return the document. A conflict, a failed test or a busy server is tried again; a refusal is for people."""
    try:
        document = answer.json()
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    if answer.is_success:
        return document
    text = f"Kubernetes answers {answer.status_code} to {what}: {document.get('message') or answer.reason_phrase}"
    if answer.status_code in (401, 403, 404):
        raise Stalled(f"{text}. The daemon's account needs get on pods, and get and patch on rayclusters")
    raise Retry(text)


def _group_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"].get("labels", {}).get(GROUP_LABEL, ""))


def _group(cluster: dict[str, Any], name: str) -> tuple[int, dict[str, Any]]:
    groups = cluster.get("spec", {}).get("workerGroupSpecs") or []
    for place, group in enumerate(groups):
        if group.get("groupName") == name:
            return place, group
    raise Stalled(f"the RayCluster has no worker group {name!r}")


def _refusal(cluster: dict[str, Any], name: str) -> str:
    _, group = _group(cluster, name)
    if int(group.get("numOfHosts") or 1) > 1:
        return f"the worker group {name} has several hosts per replica"
    replicas, least = group.get("replicas"), int(group.get("minReplicas") or 0)
    if not isinstance(replicas, int):
        return f"the worker group {name} has no replicas"
    if replicas - 1 < least:
        return f"the worker group {name} has {replicas} replicas, and minReplicas is {least}"
    return ""


def _text(path: Path, flag: str) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Stalled(f"cannot read {path} (set it with {flag}): {error.strerror}") from error
