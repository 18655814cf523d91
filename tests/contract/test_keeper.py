"""The gateway while no daemon runs: a keeper follows Ray's endpoints, starts a dead HAProxy again, and hands over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqliteStore
from reconciler.claim import Claim, end_keeper, keeper_of, start_keeper
from reconciler.gateway import GatewaySettings, HAProxyGateway
from reconciler.pids import start_of
from specs.effects import SaveMemory
from specs.preemption import Preemption, PreemptionMemory
from tests.builders import cell, look, service
from tests.contract.gateway_front import client, eventually
from tests.contract.gateway_replicas import ReplicaDouble, free_port, replicas
from tests.contract.test_gateway_life import load
from tests.local_http import Heard, LocalServer, saying, serving

CHAT = "chat.aaaaaaaaaaaa.-.-.0"
NEXT = "chat.bbbbbbbbbbbb.-.-.0"
WEIGHTS = {CHAT: 7000, NEXT: 3000}


def details(doubles: Iterable[ReplicaDouble]) -> bytes:
    """Return what Ray's dashboard says of these replicas, each on a node that is called after it."""
    by_cell: dict[str, list[ReplicaDouble]] = {}
    for double in doubles:
        by_cell.setdefault(double.cell, []).append(double)
    applications = {
        cell: {
            "name": cell,
            "route_prefix": f"/_/{cell}",
            "status": "RUNNING",
            "source": "declarative",
            "deployment_topology": {"ingress_deployment": "Echo"},
            "deployments": {
                "Echo": {
                    "name": "Echo",
                    "status": "HEALTHY",
                    "target_num_replicas": len(mine),
                    "replicas": [
                        {"replica_id": one.replica, "state": "RUNNING", "node_id": f"node-{one.replica}"}
                        for one in mine
                    ],
                }
            },
        }
        for cell, mine in by_cell.items()
    }
    groups = [
        {
            "protocol": "HTTP",
            "app_name": cell,
            "targets": [
                {"ip": "127.0.0.1", "port": one.port, "name": f"SERVE_REPLICA::{cell}#Echo#{one.replica}"}
                for one in mine
            ],
        }
        for cell, mine in by_cell.items()
    ]
    return json.dumps(
        {"controller_info": {"actor_id": "1"}, "applications": applications, "target_groups": groups}
    ).encode()


class Machine:
    """A daemon with its keeper, Ray's dashboard and replicas; the daemon may be killed."""

    def __init__(self, state: Path, ray: LocalServer) -> None:
        self.state = state
        self.ray = ray
        self.port = free_port()
        self.daemon: asyncio.subprocess.Process | None = None

    @property
    def folder(self) -> Path:
        return self.state / "gateway"

    @property
    def keeper(self) -> int | None:
        return keeper_of(self.folder)

    def says(self, *doubles: ReplicaDouble) -> None:
        """Let Ray know these replicas from now on."""
        body = details(doubles)

        async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
            is_serve = heard.path.startswith("/api/serve/applications")
            await saying(200 if is_serve else 404, body if is_serve else b"{}")(heard, writer)

        self.ray.answer = answer

    async def start(self, weights: dict[str, int] = WEIGHTS) -> int:
        """Start the daemon; return HAProxy's pid when all cells answer."""
        arguments = (str(self.state), str(self.port), self.ray.url, json.dumps(weights))
        self.daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.contract.keeper_daemon", *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert self.daemon.stdout is not None
        line: list[str] = []
        while line[:1] != ["ready"]:
            said = await self.daemon.stdout.readline()
            assert said, "the daemon did not start"
            line = said.decode().split()
        await self.until(lambda: self.keeper is not None)
        return int(line[1])

    async def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        await self.daemon.wait()

    def haproxy(self) -> int | None:
        """Return the HAProxy that serves now."""
        running = json.loads((self.folder / "gateway.json").read_text())["running"]
        return running["pid"] if running and start_of(running["pid"]) == running["started"] else None

    def says_log(self, text: str) -> bool:
        return text in (self.folder / "keeper.log").read_text()

    async def until(self, condition: object, seconds: float = 60.0) -> None:
        async def holds() -> bool:
            return bool(condition())  # type: ignore[operator]

        await eventually(holds, seconds)

    async def stands_in(self) -> None:
        """Wait until the keeper has taken over."""
        await self.until(lambda: self.says_log("kept by this process"))

    async def asked(self, count: int = 200) -> dict[str, int]:
        """Return how many of so many requests each replica answered; anything but 200 fails."""
        found: dict[str, int] = {}
        async with client() as session:
            for _ in range(count):
                async with session.get(f"http://127.0.0.1:{self.port}/chat/x") as answer:
                    assert answer.status == 200, await answer.text()
                    name = (await answer.json(content_type=None))["replica"]
                    found[name] = found.get(name, 0) + 1
        return found


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with serving(saying(503)) as ray:
        made = Machine(tmp_path, ray)
        try:
            yield made
        finally:
            if made.daemon is not None and made.daemon.returncode is None:
                await made.kill()
            await asyncio.to_thread(end_keeper, made.folder, signal.SIGKILL)
            pid = made.haproxy() if (made.folder / "gateway.json").exists() else None
            if pid is not None:
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def another(cell: str, name: str) -> AsyncIterator[ReplicaDouble]:
    async with replicas((cell, name)) as (made,):
        yield made


async def test_new_replicas_get_requests_while_no_daemon_runs(machine: Machine) -> None:
    async with replicas((CHAT, "one"), (NEXT, "two")) as (one, two), another(CHAT, "three") as three:
        machine.says(one, two)
        pid = await machine.start()
        await machine.kill()
        async with load(machine.port) as result:
            await machine.stands_in()
            machine.says(three, two)
            await asyncio.sleep(0)
            await machine.until(lambda: len(three.executed) > 20)
            one.is_draining = True
            await machine.until(lambda: machine.says_log("server removed") or len(three.executed) > 200)
        await one.stop()
        shares = await machine.asked(400)
        assert set(shares) == {"two", "three"}
        assert 60 < shares["two"] < 180, "weights changed"
        assert result.failures == []
        assert set(result.answers) == {200}
        assert machine.haproxy() == pid, "HAProxy was started anew"


COUNTS = (1, 3, 2, 4)
"""How many replicas the autoscaler wants of one cell, turn by turn."""


@pytest.mark.parametrize(
    "minutes", [0.3, pytest.param(10, marks=[pytest.mark.slow, pytest.mark.timeout(900)], id="ten minutes")]
)
async def test_traffic_follows_all_that_serve_replaces_and_autoscales(machine: Machine, minutes: float) -> None:
    async with replicas((NEXT, "stays"), (CHAT, "first")) as (stays, first), AsyncExitStack() as stack:
        running = [first]
        machine.says(stays, first)
        pid = await machine.start()
        await machine.kill()
        now = asyncio.get_running_loop().time
        async with load(machine.port, pause=0.05) as result:
            await machine.stands_in()
            end, turns = now() + minutes * 60, 0
            while now() < end:
                count = COUNTS[turns % len(COUNTS)]
                new = [await stack.enter_async_context(another(CHAT, f"{turns}-{one}")) for one in range(count)]
                machine.says(stays, *running, *new)
                await machine.until(lambda new=new: all(one.executed for one in new))
                await _stopped(machine, running, stays, *new)
                running, turns = new, turns + 1
        assert turns > 2 * minutes
        assert result.failures == []
        assert set(result.answers) == {200}
        shares = await machine.asked(400)
        assert set(shares) == {"stays", *(one.replica for one in running)}
        assert 60 < shares["stays"] < 180, "weights changed"
        assert machine.haproxy() == pid, "HAProxy was started anew"


async def _stopped(machine: Machine, leaving: list[ReplicaDouble], *staying: ReplicaDouble) -> None:
    """Stop replicas as Serve does: they go from its list at once and die when nobody has asked them for a while."""
    for one in leaving:
        one.is_draining = True
    machine.says(*staying)
    asked, quiet = -1, 0
    while quiet < 4:
        await asyncio.sleep(0.5)
        before, asked = asked, sum(len(one.executed) for one in leaving)
        quiet = quiet + 1 if asked == before else 0
    for one in leaving:
        await one.stop()


async def test_a_haproxy_that_dies_meanwhile_is_back_with_the_same_weights(machine: Machine) -> None:
    async with replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        machine.says(one, two)
        pid = await machine.start()
        await machine.kill()
        await machine.stands_in()
        os.kill(pid, signal.SIGKILL)
        await machine.until(lambda: machine.haproxy() not in (None, pid), seconds=10)
        shares = await machine.asked(400)
        assert set(shares) == {"one", "two"}
        assert 60 < shares["two"] < 180, "weights changed"


async def test_a_haproxy_that_died_with_the_daemon_is_back_too(machine: Machine) -> None:
    async with replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        machine.says(one, two)
        pid = await machine.start()
        os.kill(pid, signal.SIGSTOP)
        await machine.kill()
        os.kill(pid, signal.SIGKILL)
        await machine.until(lambda: machine.haproxy() not in (None, pid), seconds=30)
        assert set(await machine.asked(100)) == {"one", "two"}


async def test_the_next_daemon_takes_over_without_a_failed_request(machine: Machine) -> None:
    async with replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        machine.says(one, two)
        pid = await machine.start()
        async with load(machine.port) as result:
            for _ in range(2):
                stood_in = machine.keeper
                await machine.kill()
                await machine.stands_in()
                assert await machine.start() == pid
                assert machine.keeper != stood_in, "the old keeper stayed"
                assert stood_in is None or start_of(stood_in) is None
                (machine.folder / "keeper.log").write_text("")
        assert result.failures == []
        assert set(result.answers) == {200}


async def test_a_keeper_that_hangs_is_ended_by_the_next_daemon(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.claim.LET_GO_WITHIN", 0.5)
    async with replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        machine.says(one, two)
        await machine.start()
        await machine.kill()
        await machine.stands_in()
        stuck = machine.keeper
        assert stuck is not None
        os.kill(stuck, signal.SIGSTOP)
        claim = Claim(machine.folder)
        await asyncio.to_thread(claim.take)
        assert start_of(stuck) is None
        claim.release()


async def test_blindness_and_half_answers_change_nothing(machine: Machine) -> None:
    async with replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        machine.says(one, two)
        await machine.start()
        await machine.kill()
        await machine.stands_in()
        for answer in (saying(500), saying(200, b"{}"), saying(200, b"half an ans")):
            machine.ray.answer = answer
            heard = len(machine.ray.heard)
            await machine.until(lambda heard=heard: len(machine.ray.heard) > heard + 1)
            assert set(await machine.asked(60)) == {"one", "two"}


async def test_a_keeper_that_is_told_to_stop_ends_haproxy_too(machine: Machine) -> None:
    async with replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        machine.says(one, two)
        pid = await machine.start()
        await machine.kill()
        await machine.stands_in()
        assert await asyncio.to_thread(end_keeper, machine.folder)
        assert start_of(pid) is None, "HAProxy was left behind"
        assert machine.keeper is None
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{machine.port}/chat")


async def test_a_keeper_that_waits_takes_no_time_and_little_memory(machine: Machine) -> None:
    async with replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        machine.says(one, two)
        await machine.start()
        keeper = machine.keeper
        assert keeper is not None
        await machine.until(lambda: _is_asleep(keeper))
        before = _ticks(keeper)
        heard = len(machine.ray.heard)
        await asyncio.sleep(1.0)
        assert _ticks(keeper) - before <= 1
        assert len(machine.ray.heard) == heard, "it asks Ray although a daemon runs"
        status = Path(f"/proc/{keeper}/status").read_text()
        resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
        assert resident < 25_000, f"{resident} kB"


def _is_asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/wchan").read_text() not in ("0", "") or "lock" in Path(f"/proc/{pid}/syscall").read_text()


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_a_gateway_that_stands_in_never_gives_a_cell_more(machine: Machine) -> None:
    """It does not even have the means: no table reaches it but the one that was saved."""
    async with replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        machine.says(one, two)
        await machine.start({CHAT: 10_000, NEXT: 0})
        await machine.kill()
        await machine.stands_in()
        await one.stop()
        machine.says(two)
        await machine.until(lambda: len(two.executed) >= 0)
        saved = json.loads((machine.folder / "gateway.json").read_text())["table"]
        weights = {cell["cell"]: cell["weight"] for row in saved["services"] for cell in row["cells"]}
        assert weights == {CHAT: 10_000, NEXT: 0}
        gateway = HAProxyGateway(GatewaySettings(folder=machine.folder, port=machine.port, lanes=16), SystemClock())
        claim = Claim(machine.folder)
        await asyncio.to_thread(claim.take)
        async with gateway.running():
            seen = await gateway.observe()
        claim.release()
        assert {lane.cell: lane.weight for lane in seen.lanes} == weights


async def test_a_state_folder_may_be_named_from_where_the_daemon_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("state/gateway")
    folder.mkdir(parents=True)
    claim = Claim(folder)
    await asyncio.to_thread(claim.take)
    keeper = start_keeper(folder, {})
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            await asyncio.to_thread(keeper.wait, 2)  # It has a lock to wait for, and does.
    finally:
        keeper.kill()
        await asyncio.to_thread(keeper.wait)
        claim.release()
    assert (folder / "keeper.log").read_text() == ""


async def remember(state: Path, *leaving: str, seconds: float) -> None:
    """Save what a daemon with the cell CHAT knows of nodes that go in so many seconds."""
    now = SystemClock(state).now()
    memory = look(service("chat", "aaaaaaaaaaaa", {"Echo": 2}), cell("aaaaaaaaaaaa"), stable="aaaaaaaaaaaa").memory
    notices = tuple(
        Preemption(node=node, ip="127.0.0.1", noticed_at=now, deadline=now + timedelta(seconds=seconds), by="ada")
        for node in leaving
    )
    store = SqliteStore(state)
    await store.save(SaveMemory(services=(memory,), preemption=PreemptionMemory(notices=notices)))
    await store.close()


async def test_a_node_that_is_about_to_go_is_left_though_no_daemon_runs(machine: Machine) -> None:
    async with replicas((CHAT, "one"), (CHAT, "two")) as (one, two):
        machine.says(one, two)
        await machine.start({CHAT: 10000})
        await remember(machine.state, "node-one", seconds=8)
        await machine.kill()
        await machine.stands_in()
        assert set(await machine.asked(50)) == {"one", "two"}, "there is time yet"

        async def is_left() -> bool:
            return set(await machine.asked(20)) == {"two"}

        await eventually(is_left, 60)
        assert set(await machine.asked(100)) == {"two"}


async def test_the_only_replica_stays_though_its_node_is_about_to_go(machine: Machine) -> None:
    async with replicas((CHAT, "one"), (CHAT, "two")) as (one, two):
        machine.says(one, two)
        await machine.start({CHAT: 10000})
        await remember(machine.state, "node-one", "node-two", seconds=0)
        await machine.kill()
        await machine.stands_in()
        assert set(await machine.asked(100)) == {"one", "two"}
