"""A cluster that Heliostat must not touch is not touched."""

import pytest

from reconciler.adapters.serve_approval import ApprovedServe
from reconciler.adapters.serve_check import Concern
from reconciler.errors import Stalled
from reconciler.ports import ServeSeen
from specs.effects import PutServeConfig

NOTHING = PutServeConfig(applications=(), removed=frozenset())
OWNED = Concern(subject="rayservice", text="A RayService owns it.", mend="Use a RayCluster.", is_fatal=True)
SLOW = Concern(subject="request time-out", text="Requests are cut.", mend="Unset it.")


class Cluster:
    def __init__(self, *concerns: Concern) -> None:
        self.concerns = concerns
        self.checks = 0
        self.writes: list[str] = []

    async def read(self) -> ServeSeen:
        return ServeSeen(running=True, cells=())

    async def put(self, change: PutServeConfig) -> None:
        self.writes.append("put")

    async def scale(self, application: str, deployment: str, target: int) -> None:
        self.writes.append("scale")

    async def check(self) -> tuple[Concern, ...]:
        self.checks += 1
        return self.concerns


async def test_a_cluster_that_somebody_else_owns_is_read_but_never_written() -> None:
    cluster = Cluster(OWNED, SLOW)
    serve = ApprovedServe(cluster)
    assert (await serve.read()).running
    with pytest.raises(Stalled, match=r"A RayService owns it\. Use a RayCluster\."):
        await serve.put(NOTHING)
    with pytest.raises(Stalled, match="RayService"):
        await serve.scale("chat", "Chat", 2)
    assert cluster.writes == []


async def test_a_cluster_that_was_mended_is_taken() -> None:
    cluster = Cluster(OWNED)
    serve = ApprovedServe(cluster)
    with pytest.raises(Stalled):
        await serve.put(NOTHING)
    cluster.concerns = (SLOW,)
    await serve.put(NOTHING)
    await serve.scale("chat", "Chat", 2)
    assert cluster.writes == ["put", "scale"]
    assert cluster.checks == 2, "an approved cluster is not asked again at each write"
