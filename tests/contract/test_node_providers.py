"""What whoever lends the nodes promises: the fake, nobody, and KubeRay before a stand-in for the Kubernetes API."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from reconciler.adapters.node_providers import NoProvider
from reconciler.errors import PortError, Retry, Stalled
from reconciler.ports import NodeProvider
from specs.observed import Node
from tests.kube_stand_in import KubeStandIn, kuberay
from tests.sim.compacting import FakeProvider

ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


class Lender(Protocol):
    """A provider with three nodes, and what a test can see and do behind its back."""

    @property
    def provider(self) -> NodeProvider: ...
    def lent(self) -> list[str]:
        """Return the addresses of the nodes that it still lends."""

    def insist(self) -> None:
        """Take no node back from now on."""

    def break_down(self, *, for_people: bool) -> None:
        """Answer no call any more: for a while, or until people do something."""


@dataclass
class Fake:
    provider: FakeProvider = field(default_factory=FakeProvider)

    def lent(self) -> list[str]:
        return sorted(set(ADDRESSES) - set(self.provider.released))

    def insist(self) -> None:
        self.provider.never = dict.fromkeys(ADDRESSES, "they are the last ones")

    def break_down(self, *, for_people: bool) -> None:
        self.provider.problem = Stalled("no rights") if for_people else Retry("cannot be reached")


class Kube:
    def __init__(self, folder: Path) -> None:
        self.kube = KubeStandIn(replicas=len(ADDRESSES), least=0)
        self.provider = kuberay(self.kube, folder)

    def lent(self) -> list[str]:
        found = sorted(pod["status"]["podIP"] for pod in self.kube.pods)
        assert self.kube.group["replicas"] == len(found)
        return found

    def insist(self) -> None:
        self.kube.group["minReplicas"] = self.kube.group["replicas"]

    def break_down(self, *, for_people: bool) -> None:
        self.kube.status = 403 if for_people else 503


LENDERS = {"fake": lambda _: Fake(), "kuberay": Kube}


@pytest.fixture(params=LENDERS)
def lender(request: pytest.FixtureRequest, tmp_path: Path) -> Lender:
    return LENDERS[request.param](tmp_path)


@pytest.fixture(params=[*LENDERS, "nobody"])
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> NodeProvider:
    return NoProvider() if request.param == "nobody" else LENDERS[request.param](tmp_path).provider


def node(ip: str) -> Node:
    return Node(id="n", ip=ip, is_alive=True, is_head=False, is_draining=False)


async def test_a_node_that_may_go_can_be_given_back_and_again(provider: NodeProvider) -> None:
    assert await provider.refusal(node(ADDRESSES[0])) == ""
    for _ in range(2):
        await provider.release(ADDRESSES[0])
    assert await provider.refusal(node(ADDRESSES[1])) == ""


async def test_to_give_back_what_is_gone_already_is_harmless(provider: NodeProvider) -> None:
    await provider.release("10.0.0.9")
    assert await provider.refusal(node(ADDRESSES[0])) == ""


async def test_what_is_given_back_is_that_node_once_and_no_other(lender: Lender) -> None:
    for _ in range(2):
        await lender.provider.release(ADDRESSES[1])
    assert lender.lent() == [ADDRESSES[0], ADDRESSES[2]]
    await lender.provider.release(ADDRESSES[2])
    assert lender.lent() == [ADDRESSES[0]]


async def test_asking_gives_nothing_back(lender: Lender) -> None:
    await lender.provider.refusal(node(ADDRESSES[1]))
    assert lender.lent() == [*ADDRESSES]


async def test_a_node_that_is_not_taken_back_is_refused_with_the_reason_before_and_when_it_is_given(
    lender: Lender,
) -> None:
    lender.insist()
    why = await lender.provider.refusal(node(ADDRESSES[1]))
    assert why
    with pytest.raises(Stalled) as refused:
        await lender.provider.release(ADDRESSES[1])
    assert refused.value.reason == why
    assert lender.lent() == [*ADDRESSES]


async def test_what_was_given_back_before_is_no_error_when_nothing_more_is_taken(lender: Lender) -> None:
    await lender.provider.release(ADDRESSES[1])
    lender.insist()
    await lender.provider.release(ADDRESSES[1])


@pytest.mark.parametrize(("for_people", "error"), [(False, Retry), (True, Stalled)])
async def test_trouble_is_neither_a_refusal_nor_a_permission(
    lender: Lender, for_people: bool, error: type[PortError]
) -> None:
    lender.break_down(for_people=for_people)
    with pytest.raises(error):
        await lender.provider.refusal(node(ADDRESSES[1]))
    with pytest.raises(error):
        await lender.provider.release(ADDRESSES[1])
    assert lender.lent() == [*ADDRESSES]
