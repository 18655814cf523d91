"""What HAProxy and its supervisor survive, and what their clients notice of it: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.errors import Retry, Stalled
from reconciler.gateway import HAProxyGateway
from reconciler.pids import start_of
from tests.contract.gateway_front import Front, endpoints, eventually, front, service, settings, table
from tests.contract.gateway_replicas import ReplicaDouble, free_port, replicas

CHAT = "chat.aaaaaaaaaaaa.-.-.0"
NEXT = "chat.bbbbbbbbbbbb.-.-.0"
SPLIT = table(service("chat", (CHAT, 7000), (NEXT, 3000)))
WEIGHTS = {CHAT: 7000, NEXT: 3000}


async def weights(gate: Front) -> dict[str, int]:
    return {lane.cell: lane.weight for lane in (await gate.gateway.observe()).lanes}


async def _are_timed(gate: Front, more_than: int) -> bool:
    """Return whether more answers than that have been sent since and some were timed, on both sides alike."""
    traffic = (await gate.gateway.observe()).traffic
    return all(seen.evidence.latency.total > 0 for seen in traffic) and (
        sum(seen.evidence.requests for seen in traffic) > more_than
    )


class Load:
    """Requests without a pause, each on a connection of its own."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.failures: list[str] = []


@asynccontextmanager
async def load(port: int, path: str = "/chat/x", *, pause: float = 0.005) -> AsyncIterator[Load]:
    """Ask again and again, four at a time, each with so many seconds between its requests."""
    result = Load()
    connector = aiohttp.TCPConnector(force_close=True)

    async def ask(session: aiohttp.ClientSession) -> None:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    await answer.read()
                    result.answers.append(answer.status)
            except (aiohttp.ClientError, OSError) as error:
                result.failures.append(repr(error))
            await asyncio.sleep(pause)

    async with aiohttp.ClientSession(connector=connector) as session:
        tasks = [asyncio.create_task(ask(session)) for _ in range(4)]
        try:
            yield result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def open_stream(port: int, *doubles: ReplicaDouble) -> AsyncIterator[None]:
    """Hold a server-sent stream open; at the end it must still be alive and come to its own end."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.get(f"http://127.0.0.1:{port}/chat/stream") as answer,
    ):
        assert answer.status == 200
        assert (await answer.content.readuntil(b"\n\n")).startswith(b"data: ")
        yield
        for double in doubles:
            double.release.set()
        assert (await answer.content.read()).endswith(b"data: end\n\n")


@pytest.fixture(autouse=True)
async def nothing_left(tmp_path: Path) -> AsyncIterator[None]:
    """End what a test left running on purpose, or because it failed."""
    yield
    for state in tmp_path.rglob("gateway.json"):
        running = json.loads(state.read_text())["running"]
        if running and start_of(running["pid"]) == running["started"]:
            os.kill(running["pid"], signal.SIGKILL)


async def test_a_killed_haproxy_is_back_at_once_with_the_same_weights(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        await gate.serve(SPLIT, *doubles)
        async with load(gate.port) as result:
            for _ in range(2):
                pid = gate.pid
                os.kill(pid, signal.SIGKILL)

                async def back(pid: int = pid) -> bool:
                    return gate.pid != pid and (await gate.get("/chat"))[0] == 200

                await eventually(back, seconds=2)
                assert await weights(gate) == WEIGHTS
                await gate.until_up(*doubles)
        # What was in flight dies with its process; what waited or came meanwhile is answered.
        assert len(result.failures) <= 8, result.failures
        assert set(result.answers) == {200}
        assert (await gate.gateway.observe()).reloads == 0


async def test_a_former_daemon_s_kill_changes_no_weight_and_breaks_no_stream(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "r"), (NEXT, "r")) as doubles:
        cells = {double.cell: (WEIGHTS[double.cell], double.port) for double in doubles}
        arguments = (str(given.folder), str(given.port), json.dumps(cells))
        daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.contract.gateway_daemon", *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert daemon.stdout is not None
        while not (line := (await daemon.stdout.readline()).decode()).startswith("ready"):
            assert line, "the daemon ended early"
        pid = int(line.split()[1])
        async with load(given.port) as result, open_stream(given.port, *doubles):
            daemon.kill()
            await daemon.wait()
            async with front(given, stop=False) as gate:
                assert gate.pid == pid
                assert await weights(gate) == WEIGHTS
                await gate.until_up(*doubles)
                seen = await gate.gateway.observe()
                assert sum(lane.in_flight for lane in seen.lanes) >= 1
                assert sum(traffic.requests for traffic in seen.traffic) >= len(result.answers)
                # What an analysis compares lacks open streams and what was not timed meanwhile, and goes on.
                assert sum(traffic.evidence.requests for traffic in seen.traffic) >= len(result.answers) - 4
                await eventually(lambda: _are_timed(gate, len(result.answers)))
                assert seen.reloads == 0
        assert result.failures == []
        assert set(result.answers) == {200}


async def test_after_an_adoption_a_killed_haproxy_is_covered_too(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        async with front(given, stop=False) as gate:
            await gate.serve(SPLIT, *doubles)
            pid = gate.pid
        async with front(given) as gate:
            assert gate.pid == pid
            async with load(gate.port) as result:
                os.kill(pid, signal.SIGKILL)

                async def back() -> bool:
                    return gate.pid != pid and (await gate.get("/chat"))[0] == 200

                await eventually(back, seconds=2)
            assert len(result.failures) <= 4, result.failures
            assert set(result.answers) == {200}
            assert await weights(gate) == WEIGHTS
            assert not Path(f"/proc/{pid}").exists(), "nor is it left as a zombie"


async def test_a_haproxy_that_died_with_its_daemon_is_started_with_its_table(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        async with front(given, stop=False) as gate:
            await gate.serve(SPLIT, *doubles)
            pid = gate.pid
        os.kill(pid, signal.SIGKILL)
        async with front(given) as gate:
            assert (await gate.get("/chat"))[0] == 200
            assert await weights(gate) == WEIGHTS


async def test_a_pid_that_now_belongs_to_another_program_is_not_adopted(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with front(given) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(table(service("chat", (CHAT, 10000))), one)
    state = given.folder / "gateway.json"
    saved = json.loads(state.read_text())
    saved["running"] = {"pid": os.getpid(), "started": 1, "generation": 1, "version": "x", "lanes": 16}
    state.write_text(json.dumps(saved))
    async with front(given) as gate:
        assert gate.pid != os.getpid()
        assert start_of(os.getpid()) is not None


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let no state be written for as long as the block runs: its draft is in the way."""
    obstacle = folder / ".gateway.json.new"
    obstacle.mkdir()
    try:
        yield
    finally:
        obstacle.rmdir()


@pytest.mark.parametrize("zone", [None, "a"])
async def test_a_full_disk_holds_routes_and_keeps_servers_fresh(tmp_path: Path, zone: str | None) -> None:
    given = settings(tmp_path, zone=zone)
    async with front(given) as gate, replicas((CHAT, "one"), (CHAT, "two"), (NEXT, "new")) as (one, two, new):
        await gate.serve(table(service("chat", (CHAT, 10000))), one)
        with full_disk(given.folder):
            with pytest.raises(Stalled, match=r"cannot write .*gateway.json: Is a directory. Make room on its disk"):
                await gate.gateway.route(SPLIT)
            await gate.gateway.refresh(endpoints(one, two), complete=True)
            await gate.until_up(one, two)
            assert await weights(gate) == {CHAT: 10000, NEXT: 0}
        await gate.serve(SPLIT, one, two, new)
        assert await weights(gate) == WEIGHTS
        await eventually_answers(gate, "new")


async def eventually_answers(gate: Front, replica: str) -> None:
    async def answered() -> bool:
        status, answer = await gate.get("/chat")
        assert status == 200
        return bool(answer["replica"] == replica)

    await eventually(answered)


async def test_a_haproxy_that_was_started_on_a_full_disk_is_found_again(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        async with front(given, stop=False) as gate:
            await gate.serve(SPLIT, *doubles)
            with full_disk(given.folder):
                pid = gate.pid
                os.kill(pid, signal.SIGKILL)

                async def back() -> bool:
                    return gate.pid != pid and (await gate.get("/chat"))[0] == 200

                await eventually(back, seconds=2)
                old = (given.folder / "gateway.json").read_text()
        # As if the daemon had died before there was room again.
        (given.folder / "gateway.json").write_text(old)
        async with load(given.port) as result, front(given, stop=False) as gate:
            assert await weights(gate) == WEIGHTS
            await gate.until_up(*doubles)
        assert result.failures == []
        assert set(result.answers) == {200}


async def test_a_lost_state_file_is_read_back_from_haproxy(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "one#1"), (NEXT, "two")) as doubles:
        async with front(given, stop=False) as gate:
            await gate.serve(SPLIT, *doubles)
        (given.folder / "gateway.json").unlink()
        async with load(given.port) as result, front(given, stop=False) as gate:
            assert await weights(gate) == WEIGHTS
            await gate.until_up(*doubles)
            await gate.gateway.route(SPLIT)
            assert (await gate.get("/chat"))[0] == 200
        assert result.failures == []
        assert set(result.answers) == {200}


@pytest.mark.parametrize("change", [{"threads": 2}, {"lanes": 32}, {"is_direct": False}])
async def test_a_changed_configuration_replaces_haproxy_without_a_gap(
    tmp_path: Path, change: dict[str, object]
) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        async with front(given, stop=False) as gate:
            await gate.serve(SPLIT, *doubles)
            pid = gate.pid
        changed = settings(tmp_path, **{"port": given.port, **change})
        async with load(given.port) as result, open_stream(given.port, *doubles), front(changed, stop=False) as gate:
            assert gate.pid != pid
            assert await weights(gate) == WEIGHTS
            assert (await gate.gateway.observe()).reloads == 1
        assert result.failures == []
        assert set(result.answers) == {200}


@pytest.mark.parametrize("state_is_lost", [False, True])
async def test_what_a_daemon_left_can_be_ended(tmp_path: Path, state_is_lost: bool) -> None:
    given = settings(tmp_path)
    async with front(given, stop=False) as gate:
        pid = gate.pid
    if state_is_lost:
        (given.folder / "gateway.json").unlink()
    await HAProxyGateway(given, SystemClock()).stop(timedelta(0))
    assert start_of(pid) is None


async def test_a_new_address_is_taken_and_the_old_one_left(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "one"), (NEXT, "two")) as doubles:
        async with front(given, stop=False) as gate:
            await gate.serve(SPLIT, *doubles)
        moved = settings(tmp_path, port=free_port())
        async with front(moved) as gate:
            assert await weights(gate) == WEIGHTS
            assert (await gate.get("/chat"))[0] == 200

            async def is_closed() -> bool:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", given.port)
                except ConnectionRefusedError:
                    return True
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
                return False

            await eventually(is_closed)


async def test_a_taken_port_is_told_to_a_person(tmp_path: Path) -> None:
    given = settings(tmp_path)
    other = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", given.port)
    try:
        with pytest.raises(Stalled, match=f"cannot listen on 127.0.0.1:{given.port}: another program has that port"):
            await HAProxyGateway(given, SystemClock()).run()
    finally:
        other.close()
        await other.wait_closed()


async def test_a_bad_certificate_is_told_to_a_person(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(Stalled, match=r"HAProxy ended at its start.*bad\.pem"):
        await HAProxyGateway(settings(tmp_path, tls_pem=tmp_path / "bad.pem"), SystemClock()).run()


async def test_a_missing_certificate_is_told_to_a_person(tmp_path: Path) -> None:
    with pytest.raises(Stalled, match=r"certificate .*gone\.pem cannot be read: No such file"):
        await HAProxyGateway(settings(tmp_path, tls_pem=tmp_path / "gone.pem"), SystemClock()).run()


async def test_more_cells_than_lanes_grow_the_pool_with_one_seamless_reload(tmp_path: Path) -> None:
    cells = [f"svc{number}.aaaaaaaaaaaa.-.-.0" for number in range(4)]
    async with front(settings(tmp_path, lanes=2)) as gate, replicas(*((cell, "r") for cell in cells)) as doubles:
        rows = [service(f"svc{number}", (cell, 10000)) for number, cell in enumerate(cells)]
        await gate.serve(table(*rows[:2]), *doubles[:2])
        pid = gate.pid
        async with load(gate.port, "/svc0/x") as result:
            await gate.serve(table(*rows), *doubles)
            assert [(await gate.get(f"/svc{number}"))[0] for number in range(4)] == [200] * 4
            seen = await gate.gateway.observe()
            assert seen.reloads == 1
            assert gate.pid != pid

            async def former_ended() -> bool:
                return start_of(pid) is None

            await eventually(former_ended)
        assert result.failures == []
        assert set(result.answers) == {200}


async def test_an_idle_client_connection_outlives_a_reload_by_one_answer(tmp_path: Path) -> None:
    async with front(settings(tmp_path, lanes=1)) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(table(service("chat", (CHAT, 10000))), one)
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        ask = b"GET /chat/x HTTP/1.1\r\nHost: test\r\n\r\n"
        writer.write(ask)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        await gate.gateway.route(table(service("chat", (CHAT, 10000)), service("more", ("more.a.-.-.0", 10000))))
        writer.write(ask)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        writer.close()


async def test_only_this_user_can_use_the_admin_socket(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with front(given):
        assert stat.S_IMODE(given.folder.stat().st_mode) == 0o700
        sockets = list(given.folder.glob("*.sock"))
        assert len(sockets) == 2
        assert {stat.S_IMODE(path.stat().st_mode) for path in sockets} == {0o600}
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in given.folder.iterdir() if path.is_file()}
        assert {name for name, mode in files.items() if mode & 0o077} <= {"haproxy.log"}


async def test_a_long_folder_path_does_not_matter(tmp_path: Path) -> None:
    given = settings(tmp_path, folder=tmp_path / ("d" * 120) / "gateway")
    async with front(given) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(table(service("chat", (CHAT, 10000))), one)
        assert (await gate.get("/chat"))[0] == 200


async def test_before_it_runs_the_gateway_asks_to_try_again(tmp_path: Path) -> None:
    gateway = HAProxyGateway(settings(tmp_path), SystemClock())
    with pytest.raises(Retry, match="starting"):
        await gateway.observe()
    with pytest.raises(Retry, match="starting"):
        await gateway.route(SPLIT)


async def test_a_drained_lane_is_leased_again_without_the_former_cell_s_counts(tmp_path: Path) -> None:
    async with front(settings(tmp_path, lanes=1)) as gate, replicas((CHAT, "one"), (NEXT, "two")) as (one, two):
        await gate.serve(table(service("chat", (CHAT, 10000))), one)
        for _ in range(5):
            await gate.get("/chat")
        await gate.gateway.route(table())
        await gate.until(lambda seen: not seen.lanes)

        async def leased() -> bool:
            return not gate.gateway.leases

        await eventually(leased)
        await gate.serve(table(service("chat", (NEXT, 10000))), two)
        await gate.get("/chat")
        (traffic,) = (await gate.gateway.observe()).traffic
        assert (traffic.cell, traffic.requests) == (NEXT, 1)
        assert (await gate.gateway.observe()).reloads == 0
        assert one.executed == ["GET "] * 5


async def test_a_request_longer_than_the_service_allows_is_cut_when_its_cell_goes(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(table(service("chat", (CHAT, 10000), seconds=0.5)), one)
        async with gate.session.get(gate.url("/chat/stream")) as stream:
            await stream.content.readuntil(b"\n\n")
            await gate.gateway.route(table())
            with pytest.raises(aiohttp.ClientPayloadError):
                await stream.content.read()
        await gate.until(lambda seen: not seen.lanes)


async def test_servers_leave_haproxy_with_their_replicas(tmp_path: Path) -> None:
    given = settings(tmp_path)
    short = settings(tmp_path, port=given.port, unseen=given.tick)
    async with front(short) as gate, replicas((CHAT, "one"), (CHAT, "two")) as (one, two):
        await gate.serve(table(service("chat", (CHAT, 10000))), one, two)
        await one.stop()

        async def one_left() -> bool:
            await gate.gateway.refresh(endpoints(two), complete=True)
            return await gate.gateway.servers(CHAT) == {"two": "UP"}

        await eventually(one_left)
        assert (await gate.get("/chat"))[1]["replica"] == "two"


async def test_a_replica_whose_node_is_about_to_go_is_left_though_it_is_healthy_and_its_streams_live(
    tmp_path: Path,
) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (CHAT, "two")) as (one, two):
        await gate.serve(table(service("chat", (CHAT, 10000))), one)
        async with gate.session.get(gate.url("/chat/stream")) as stream:
            await stream.content.readuntil(b"\n\n")
            await gate.serve(table(service("chat", (CHAT, 10000))), one, two)
            leaving = {CHAT: (replace(one.endpoint, is_leaving=True), two.endpoint)}
            await gate.gateway.refresh(leaving, complete=True)
            await gate.until(lambda seen: seen.lanes[0].up == {"two"})
            before = len(one.executed)
            for _ in range(20):
                assert (await gate.get("/chat/x"))[1]["replica"] == "two"
            assert len(one.executed) == before
            one.release.set()
            assert (await stream.content.read()).endswith(b"data: end\n\n")
        await gate.gateway.refresh(endpoints(one, two), complete=True)
        await gate.until(lambda seen: seen.lanes[0].up == {"one", "two"})
