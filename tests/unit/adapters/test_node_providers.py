"""Giving nodes back to KubeRay, held against a stand-in that answers and refuses as the Kubernetes API does."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.adapters.kubernetes_secrets import KubernetesApi
from reconciler.adapters.node_providers import KubeRay, NoProvider, RayCluster
from reconciler.errors import Retry, Stalled
from specs.observed import Node
from tests.kube_stand_in import KubeStandIn, kuberay


def node(ip: str) -> Node:
    return Node(id="n", ip=ip, is_alive=True, is_head=False, is_draining=False)


async def test_the_count_falls_and_the_pod_is_named_in_one_patch(tmp_path: Path) -> None:
    kube = KubeStandIn()
    ray = kuberay(kube, tmp_path)
    assert await ray.refusal(node("10.0.0.2")) == ""
    await ray.release("10.0.0.2")
    assert kube.group["replicas"] == 2
    assert kube.group["scaleStrategy"] == {"workersToDelete": ["prod-gpu-2"]}
    assert [pod["metadata"]["name"] for pod in kube.pods] == ["prod-gpu-1", "prod-gpu-3"]
    assert kube.cluster["spec"]["workerGroupSpecs"][0]["replicas"] == 1
    assert [method for method, _ in kube.seen].count("PATCH") == 1


async def test_a_pod_that_is_gone_or_named_already_is_not_counted_twice(tmp_path: Path) -> None:
    kube = KubeStandIn()
    ray = kuberay(kube, tmp_path)
    await ray.release("10.0.0.9")
    kube.group["scaleStrategy"] = {"workersToDelete": ["prod-gpu-2"]}
    await ray.release("10.0.0.2")
    assert kube.group["replicas"] == 3


async def test_pods_named_before_stay_named(tmp_path: Path) -> None:
    kube = KubeStandIn()
    kube.group["scaleStrategy"] = {"workersToDelete": ["prod-gpu-7"]}
    await kuberay(kube, tmp_path).release("10.0.0.2")
    assert kube.group["scaleStrategy"]["workersToDelete"] == ["prod-gpu-7", "prod-gpu-2"]


async def test_an_autoscaler_that_changed_the_count_meanwhile_wins(tmp_path: Path) -> None:
    kube = KubeStandIn()
    kube.before_patch = lambda: kube.group.update(replicas=4)
    with pytest.raises(Retry, match="test failed"):
        await kuberay(kube, tmp_path).release("10.0.0.2")
    assert kube.group["replicas"] == 4
    assert len(kube.pods) == 3


async def test_a_group_at_its_least_is_refused_before_anything_is_drained(tmp_path: Path) -> None:
    kube = KubeStandIn(replicas=2, least=2)
    ray = kuberay(kube, tmp_path)
    assert "minReplicas is 2" in await ray.refusal(node("10.0.0.2"))
    with pytest.raises(Stalled, match="minReplicas"):
        await ray.release("10.0.0.2")
    assert "no worker pod with the address 10.0.0.8" in await ray.refusal(node("10.0.0.8"))
    kube.group.update(minReplicas=0, numOfHosts=4)
    assert "several hosts" in await ray.refusal(node("10.0.0.2"))


@pytest.mark.parametrize(("status", "error"), [(403, Stalled), (404, Stalled), (409, Retry), (500, Retry)])
async def test_refusals_are_told_from_troubles(tmp_path: Path, status: int, error: type[Exception]) -> None:
    kube = KubeStandIn()
    kube.status = status
    with pytest.raises(error):
        await kuberay(kube, tmp_path).release("10.0.0.2")


async def test_the_token_is_read_anew_and_never_shown(tmp_path: Path) -> None:
    kube = KubeStandIn(token="secret-2")
    ray = kuberay(kube, tmp_path)
    with pytest.raises(Stalled) as refused:
        await ray.release("10.0.0.2")
    assert "secret" not in refused.value.reason
    (tmp_path / "token").write_text("secret-2")
    await ray.release("10.0.0.2")
    assert kube.group["replicas"] == 2


async def test_without_a_provider_a_node_may_go_and_nothing_is_called() -> None:
    assert await NoProvider().refusal(node("10.0.0.1")) == ""
    await NoProvider().release("10.0.0.1")


def test_a_provider_without_a_cluster_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(Stalled, match="--kuberay-cluster"):
        KubeRay(KubernetesApi(url="http://kube.test"), RayCluster(name=""))
