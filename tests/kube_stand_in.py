"""A stand-in for the Kubernetes API with one RayCluster, which answers and refuses as that does."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import httpx

from reconciler.adapters.kubernetes_secrets import KubernetesApi
from reconciler.adapters.node_providers import KubeRay, RayCluster

PODS = "/api/v1/namespaces/ml/pods"
CLUSTER = "/apis/ray.io/v1/namespaces/ml/rayclusters/prod"


class KubeStandIn:
    """One namespace with one RayCluster: JSON patches are applied as RFC 6902 says, and pods follow the count."""

    def __init__(self, *, replicas: int = 3, least: int = 1, token: str = "secret-1") -> None:
        self.token = token
        self.cluster: dict[str, Any] = {
            "metadata": {"name": "prod"},
            "spec": {
                "workerGroupSpecs": [
                    {"groupName": "cpu", "replicas": 1, "minReplicas": 0},
                    {"groupName": "gpu", "replicas": replicas, "minReplicas": least, "maxReplicas": 9},
                ]
            },
        }
        self.pods = [self._pod(f"prod-gpu-{n}", "gpu", f"10.0.0.{n}") for n in range(1, replicas + 1)]
        self.seen: list[tuple[str, str]] = []
        self.before_patch: Any = lambda: None
        self.status = 0

    @staticmethod
    def _pod(name: str, group: str, ip: str) -> dict[str, Any]:
        labels = {"ray.io/cluster": "prod", "ray.io/group": group, "ray.io/node-type": "worker"}
        return {"metadata": {"name": name, "labels": labels}, "status": {"podIP": ip}}

    @property
    def group(self) -> dict[str, Any]:
        group: dict[str, Any] = self.cluster["spec"]["workerGroupSpecs"][1]
        return group

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((request.method, request.url.path))
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return httpx.Response(401, json={"message": "Unauthorized"})
        if self.status:
            return httpx.Response(self.status, json={"message": "as told"})
        match request.method, request.url.path:
            case "GET", path if path == PODS:
                wanted = dict(part.split("=") for part in request.url.params["labelSelector"].split(","))
                pods = [pod for pod in self.pods if wanted.items() <= pod["metadata"]["labels"].items()]
                return httpx.Response(200, json={"items": pods})
            case "GET", path if path == CLUSTER:
                return httpx.Response(200, json=self.cluster)
            case "PATCH", path if path == CLUSTER:
                assert request.headers["content-type"] == "application/json-patch+json"
                self.before_patch()
                return self._patched(json.loads(request.content))
        return httpx.Response(404, json={"message": "not found"})

    def _patched(self, patch: list[dict[str, Any]]) -> httpx.Response:
        changed = copy.deepcopy(self.cluster)
        for step in patch:
            *way, last = step["path"].strip("/").split("/")
            place: Any = changed
            for name in way:
                place = place[int(name)] if isinstance(place, list) else place[name]
            if step["op"] == "test":
                if place.get(last) != step["value"]:
                    return httpx.Response(422, json={"message": "the server rejected our request: test failed"})
            elif step["op"] == "replace":
                assert last in place
                place[last] = step["value"]
            else:
                assert step["op"] == "add"
                place[last] = step["value"]
        self.cluster = changed
        doomed = self.group.get("scaleStrategy", {}).get("workersToDelete", [])
        self.pods = [pod for pod in self.pods if pod["metadata"]["name"] not in doomed]
        return httpx.Response(200, json=self.cluster)


def kuberay(kube: KubeStandIn, folder: Path) -> KubeRay:
    """Return the provider that talks to it."""
    (folder / "token").write_text("secret-1\n")
    api = KubernetesApi(url="http://kube.test", token_file=folder / "token")
    return KubeRay(api, RayCluster(name="prod", namespace="ml"), transport=httpx.MockTransport(kube.answer))
