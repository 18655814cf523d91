"""The embedded cluster: zones, nodes that come and go, and nothing left behind however it ends."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.adapters.nodes import RayNodes
from reconciler.adapters.ray_rest import RayRest
from reconciler.embedded import EmbeddedCluster
from reconciler.embedded_processes import members
from reconciler.errors import Stalled

pytestmark = pytest.mark.ray

OWNER = """
import sys
from reconciler.embedded import EmbeddedCluster
cluster = EmbeddedCluster(zones=("a",))
sys.stdout.write("starting\\n")
sys.stdout.flush()
cluster.start()
print(cluster._child.pid, cluster._temp_dir, flush=True)
sys.stdin.read()
"""


def until(condition: Callable[[], bool], *, within: float) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def child_of(owner: subprocess.Popen[str]) -> int:
    """Return the cluster's own process, as soon as the owner has started it."""
    children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children")
    until(lambda: bool(children.read_text().split()), within=30)
    return int(children.read_text().split()[0])


def own() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end(owner: subprocess.Popen[str], how: signal.Signals) -> None:
    owner.send_signal(how)
    owner.wait(30)
    for pipe in (owner.stdin, owner.stdout):
        assert pipe is not None
        pipe.close()


TOKEN = "only-for-this-test-0123456789abcdef0123456789"


async def test_nodes_carry_their_zones_come_and_go_and_answer_only_who_shows_the_token() -> None:
    cluster = EmbeddedCluster(zones=("a", "b"), auth_token=TOKEN)
    async with cluster, RayRest(cluster.dashboard_url, token=TOKEN) as rest:
        async with RayRest(cluster.dashboard_url) as stranger:
            with pytest.raises(Stalled, match="HELIOSTAT_RAY_TOKEN"):
                await RayNodes(stranger).read()
        nodes = RayNodes(rest)
        found = {node.ip: node for node in await nodes.read()}
        head, first, second = cluster.nodes
        assert {ip: node.zone for ip, node in found.items()} == {head: None, first: "a", second: "b"}
        assert {node.id for node in found.values()} == {node.id for node in cluster.nodes.values()}
        assert found[head].is_head
        assert found[head].resources.get("CPU", 0.0) == 0.0

        await asyncio.to_thread(cluster.kill_node, first)
        deadline = time.monotonic() + 30
        while {node.ip: node for node in await nodes.read()}[first].is_alive:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)

        again = await asyncio.to_thread(cluster.add_node, "a", labels={"ray.io/market-type": "spot"})
        alive = {node.id: node for node in await nodes.read() if node.is_alive}
        assert alive[again.id].labels["ray.io/market-type"] == "spot"
        child, folder = cluster._child, cluster._temp_dir
        assert child is not None
        assert cluster.started_in < timedelta(seconds=60)
    assert members(child.pid, Path(folder).name) == frozenset()
    assert not Path(folder).exists()


@pytest.mark.slow  # The demo's own tests end it in the same ways.
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_owner_ends(how: signal.Signals) -> None:
    owner = own()
    assert owner.stdout is not None
    assert owner.stdout.readline() == "starting\n"
    session, folder = owner.stdout.readline().split()
    assert len(members(int(session), Path(folder).name)) > 5
    end(owner, how)
    until(lambda: not members(int(session), Path(folder).name), within=20)
    until(lambda: not Path(folder).exists(), within=5)


def test_nothing_is_left_when_the_owner_is_killed_in_the_middle_of_the_start() -> None:
    owner = own()
    session = child_of(owner)
    until(lambda: len(members(session, "-")) > 1, within=30)
    end(owner, signal.SIGKILL)
    until(lambda: not members(session, "-"), within=60)


async def test_nothing_is_left_when_the_start_is_cancelled() -> None:
    cluster = EmbeddedCluster(zones=("a",))
    starting = asyncio.ensure_future(cluster.__aenter__())
    deadline = time.monotonic() + 30
    while cluster._child is None or len(members(cluster._child.pid, "-")) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    child, folder = cluster._child, cluster._temp_dir
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert members(child.pid, Path(folder).name) == frozenset()
    assert not Path(folder).exists()
