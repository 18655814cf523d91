"""Requests through real HAProxy: what is retried, what streams, what is counted."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from specs.observed import Endpoint, TrafficSeen
from tests.contract.gateway_front import Front, client, endpoints, eventually, front, service, settings, table
from tests.contract.gateway_replicas import CHUNK, ReplicaDouble, free_port, replicas

CHAT = "chat.aaaaaaaaaaaa.-.-.0"
NEXT = "chat.bbbbbbbbbbbb.-.-.0"
WHOLE = table(service("chat", (CHAT, 10000)))
LARGE = 100 << 20


@pytest.fixture
async def chat(tmp_path: Path) -> AsyncIterator[tuple[Front, ReplicaDouble]]:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(WHOLE, one)
        yield gate, one


async def traffic(gate: Front) -> TrafficSeen:
    (seen,) = (await gate.gateway.observe()).traffic
    return seen


# -- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_work_that_may_have_been_done_is_never_sent_twice(tmp_path: Path, method: str) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (CHAT, "two")) as (one, two):
        await gate.serve(WHOLE, one, two)
        async with gate.session.request(method, gate.url("/chat/crash"), data=b"work") as answer:
            assert answer.status == 502
            assert answer.content_type == "application/problem+json"
        assert one.executed + two.executed == [f"{method} /crash"]


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_work_on_a_kept_connection_that_breaks_is_not_sent_twice(tmp_path: Path, method: str) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(WHOLE, one)
        for _ in range(5):
            await gate.get("/chat/warm")
        one.executed.clear()
        await gate.ask(method, "/chat/crash")
        assert len(one.executed) == (1 if method == "POST" else 4)
        assert (await traffic(gate)).errors == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_reading_is_tried_again_elsewhere(tmp_path: Path, method: str) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (CHAT, "two")) as (one, two):
        await gate.serve(WHOLE, one, two)
        one.crashes = True
        for _ in range(6):
            async with gate.session.request(method, gate.url("/chat/x")) as answer:
                assert answer.status == 200
        assert len(two.executed) == 6


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_that_cannot_be_made_costs_nobody_a_request(tmp_path: Path, method: str) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (CHAT, "two")) as (one, two):
        await gate.serve(WHOLE, one, two)
        await one.stop()
        for _ in range(20):
            async with gate.session.request(method, gate.url("/chat/x"), data=b"work") as answer:
                assert answer.status == 200
        assert two.executed == [f"{method} /x"] * 20
        assert one.executed == []


async def test_idle_connections_to_replicas_are_dropped_within_seconds(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, one = chat
    await asyncio.gather(*(gate.get("/chat/slow?ms=100") for _ in range(20)))
    assert one.connections > 1

    async def few() -> bool:
        return one.connections <= 1

    await eventually(few, seconds=14)


# -- health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_draining_replica_is_left_soon_and_its_streams_live(tmp_path: Path, is_told: bool) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (CHAT, "two")) as (one, two):
        await gate.serve(WHOLE, one)
        async with gate.session.get(gate.url("/chat/stream")) as stream:
            await stream.content.readuntil(b"\n\n")
            await gate.serve(WHOLE, one, two)
            one.is_draining = True
            if is_told:
                await gate.gateway.refresh(endpoints(two), complete=True)

            async def left() -> bool:
                return not (await gate.gateway.servers(CHAT))["one"].startswith("UP")

            await eventually(left, seconds=2.5)
            before = len(one.executed)
            for _ in range(20):
                assert (await gate.get("/chat/x"))[1]["replica"] == "two"
            assert len(one.executed) == before
            await stream.content.readuntil(b"\n\n")
            one.release.set()
            assert (await stream.content.read()).endswith(b"data: end\n\n")


async def test_a_port_that_another_application_took_over_is_left(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (CHAT, "two")) as (one, two):
        await gate.serve(WHOLE, one, two)
        port = one.port
        await one.stop()
        stranger = ReplicaDouble("other.aaaaaaaaaaaa.-.-.0", "one")
        await stranger.start(port)
        try:
            await gate.until_up(two)
            await asyncio.gather(*(gate.get("/chat/x") for _ in range(20)))
            for _ in range(3):
                await gate.gateway.refresh(endpoints(one, two), complete=True)
                await gate.until_up(two)
            assert stranger.executed == []
        finally:
            await stranger.stop()


async def test_an_endpoint_of_another_application_never_becomes_a_server(tmp_path: Path) -> None:
    longer = f"{CHAT}0"  # its prefix begins with the cell's own
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one"), (longer, "liar")) as (one, liar):
        await gate.gateway.route(WHOLE)
        told = (one.endpoint, liar.endpoint)
        await gate.gateway.refresh({CHAT: told}, complete=True)
        await gate.until_up(one)
        assert await gate.gateway.servers(CHAT) == {"one": "UP"}
        liar.cell = CHAT
        await gate.until(lambda seen: seen.lanes[0].up == {"one", "liar"})


async def test_a_server_that_fails_its_first_check_was_never_up(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        one.healthy_answers = 1  # for the probe
        await gate.gateway.route(WHOLE)
        await gate.gateway.refresh(endpoints(one), complete=True)

        async def is_down() -> bool:
            assert (await gate.gateway.observe()).lanes[0].up == frozenset()
            return (await gate.gateway.servers(CHAT)).get("one", "").startswith("DOWN")

        await eventually(is_down)


@pytest.mark.slow
async def test_a_replica_that_is_late_with_its_checks_is_busy_and_keeps_its_requests(tmp_path: Path) -> None:
    """Taken for dead, it would leave its requests to the others, which would be late next."""
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(WHOLE, one)
        one.check_seconds = 2.5

        async def checked_often() -> bool:
            assert (await gate.gateway.servers(CHAT))["one"] == "UP"
            assert (await gate.get("/chat"))[0] == 200
            return one.late_answers >= 3

        await eventually(checked_often, seconds=30)


# -- streams --------------------------------------------------------------------------------------


async def test_events_come_one_by_one(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, one = chat
    async with gate.session.get(gate.url("/chat/stream")) as stream:
        for number in range(5):
            assert await stream.content.readuntil(b"\n\n") == f"data: {number}\n\n".encode()
        one.release.set()


async def test_a_websocket_goes_through(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, _ = chat
    async with gate.session.ws_connect(gate.url("/chat/ws")) as ws:
        for word in ("hello", "again"):
            await ws.send_str(word)
            assert await ws.receive_str() == f"one:{word}"
        seen = await gate.until(lambda seen: seen.lanes[0].in_flight == 1)
        assert seen.traffic[0].errors == 0


async def test_large_bodies_stream_both_ways(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, _ = chat

    async def body() -> AsyncIterator[bytes]:
        for _ in range(LARGE // len(CHUNK)):
            yield CHUNK

    async with gate.session.post(gate.url("/chat/upload"), data=body()) as answer:
        assert await answer.text() == str(LARGE)
    async with gate.session.get(gate.url(f"/chat/download?size={LARGE}")) as answer:
        size = 0
        async for chunk in answer.content.iter_chunked(1 << 20):
            size += len(chunk)
    assert size == LARGE


async def test_a_slow_client_gets_everything(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, _ = chat
    size = 4 << 20
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=1 << 14)
    for piece in (b"GET /chat/down", f"load?size={size} HTTP/1.0\r\n".encode(), b"\r\n"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.05)
    await reader.readuntil(b"\r\n\r\n")
    received = 0
    while chunk := await reader.read(1 << 16):
        received += len(chunk)
        if received < 1 << 20:
            await asyncio.sleep(0.01)
    assert received == size
    writer.close()


# -- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2120))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path_factory.mktemp("tls of ours") / "gateway's #1.pem"
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(signed.public_bytes(encoding) + private)
    return pem


async def test_tls_speaks_http_1_and_says_https(tmp_path: Path, certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=str(certificate))
    given = settings(tmp_path, tls_pem=certificate)
    async with front(given) as gate, replicas((CHAT, "one")) as (one,), client(trust) as session:
        await gate.serve(WHOLE, one)
        async with session.get(f"https://127.0.0.1:{gate.port}/chat/x") as answer:
            assert answer.status == 200
        assert one.headers["X-Forwarded-Proto"] == "https"
        to = f"http://127.0.0.1:{gate.port}{one.prefix}/y"
        url = f"https://127.0.0.1:{gate.port}/chat/redirect"
        async with session.get(url, params={"to": to}, allow_redirects=False) as answer:
            assert answer.headers["Location"] == f"https://127.0.0.1:{gate.port}/chat/y"


async def test_tls_speaks_http_2(tmp_path: Path, certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=str(certificate))
    trust.set_alpn_protocols(["h2"])
    given = settings(tmp_path, tls_pem=certificate)
    async with front(given) as gate, replicas((CHAT, "one")) as (one,):
        await gate.serve(WHOLE, one)
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, ssl=trust)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 0x5, 1, h2_headers("/chat/x"))
        )
        await writer.drain()
        while (kind := (await read_frame(reader)))[0] != 1:
            pass
        # The first header of the answer is `:status 200`, number 8 of HPACK's static table.
        assert kind[1][0] == 0x88
        assert one.executed == ["GET /x"]
        writer.close()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def h2_headers(path: str) -> bytes:
    """`:method GET`, `:scheme https`, `:path` and `:authority` as literals without indexing."""
    authority = b"127.0.0.1"
    return b"\x82\x87\x04" + bytes([len(path)]) + path.encode() + b"\x01" + bytes([len(authority)]) + authority


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readexactly(9)
    return head[3], await reader.readexactly(int.from_bytes(head[:3]))


# -- counting -------------------------------------------------------------------------------------


async def test_requests_errors_and_codes_are_exact(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, _ = chat
    for status, count in ((200, 5), (404, 3), (500, 2), (503, 1)):
        for _ in range(count):
            assert (await gate.get(f"/chat/x?status={status}"))[0] == status
    await gate.ask("POST", "/chat/crash")
    seen = await traffic(gate)
    assert (seen.requests, seen.errors, seen.aborted, seen.unrouted) == (12, 4, 0, 0)
    codes = gate.gateway.codes()[CHAT]
    assert (codes["2xx"], codes["4xx"], codes["5xx"] + codes["none"]) == (5, 3, 4)


async def test_an_answer_that_the_replica_cuts_is_an_error(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, _ = chat
    async with gate.session.get(gate.url("/chat/cut")) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    await gate.until(lambda seen: seen.traffic[0].errors == 1)


@pytest.mark.parametrize("closer", ["client", "replica"])
async def test_a_websocket_that_ends_is_no_error(chat: tuple[Front, ReplicaDouble], closer: str) -> None:
    gate, _ = chat
    async with gate.session.ws_connect(gate.url("/chat/ws")) as ws:
        await ws.send_str("bye" if closer == "replica" else "hello")
        assert await ws.receive_str()
        if closer == "replica":
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
    seen = await gate.until(lambda seen: seen.lanes[0].in_flight == 0)
    assert (seen.traffic[0].requests, seen.traffic[0].errors) == (1, 0)


async def test_a_client_that_gives_up_is_no_error_of_the_replica(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, _ = chat
    for path in ("/chat/hold", "/chat/hold"):
        with pytest.raises(TimeoutError):
            await gate.get(path, timeout=aiohttp.ClientTimeout(total=0.3))
    seen = await gate.until(lambda seen: seen.traffic[0].aborted == 2 and seen.lanes[0].in_flight == 0)
    assert (seen.traffic[0].requests, seen.traffic[0].errors) == (2, 0)


async def test_latency_is_the_time_to_the_headers(chat: tuple[Front, ReplicaDouble]) -> None:
    gate, one = chat
    for _ in range(9):
        await gate.get("/chat/slow?ms=50")
    await gate.get("/chat/slow?ms=400")
    async with gate.session.get(gate.url("/chat/stream")) as stream:
        await stream.content.readuntil(b"\n\n")
        await asyncio.sleep(1)
        one.release.set()

    async def counted() -> bool:
        return sum(histogram.count for histogram in gate.gateway.histograms()) == 11

    await eventually(counted)
    seen = await traffic(gate)
    assert seen.p50 is not None
    assert seen.p99 is not None
    assert 0.045 <= seen.p50.total_seconds() <= 0.12
    assert 0.39 <= seen.p99.total_seconds() <= 0.7
    (histogram,) = gate.gateway.histograms()
    buckets = dict(histogram.buckets)
    assert histogram.cell == CHAT
    assert buckets[0.025] == 1
    assert buckets[0.25] == 10
    assert buckets[1.0] == 11
    assert 0.8 <= histogram.total <= 2.0


async def test_counters_only_grow_over_a_killed_haproxy_and_a_new_daemon(tmp_path: Path) -> None:
    given = settings(tmp_path)
    async with replicas((CHAT, "one")) as (one,):
        async with front(given, stop=False) as gate:
            await gate.serve(WHOLE, one)
            for _ in range(4):
                await gate.get("/chat/x?status=500")
            assert (await traffic(gate)).errors == 4
            pid = gate.pid
            os.kill(pid, signal.SIGKILL)

            async def back() -> bool:
                return gate.pid != pid and (await gate.get("/chat/x"))[0] == 200

            await eventually(back)
            seen = await traffic(gate)
            assert (seen.errors, seen.requests >= 5) == (4, True)
            requests = seen.requests
            await gate.get("/chat/x")
        async with client() as session, session.get(gate.url("/chat/x")) as answer:
            assert answer.status == 200  # while no daemon is there
        async with front(given) as gate:
            seen = await traffic(gate)
            assert (seen.requests, seen.errors) == (requests + 2, 4)


# -- through Serve's proxies ----------------------------------------------------------------------


async def test_without_direct_ingress_every_cell_is_reached_through_serve_s_proxies(tmp_path: Path) -> None:
    async with front(settings(tmp_path, is_direct=False)) as gate, replicas((CHAT, "proxy")) as (proxy,):
        proxy.serves = {CHAT, NEXT}
        await gate.gateway.route(table(service("chat", (CHAT, 5000), (NEXT, 5000))))
        both = (proxy.endpoint,)
        await gate.gateway.refresh({CHAT: both, NEXT: both}, complete=True)

        async def served() -> bool:
            statuses = [await gate.gateway.servers(cell) for cell in (CHAT, NEXT)]
            return statuses == [{"proxy": "UP"}, {"proxy": "UP"}]

        await eventually(served)
        seen = await gate.gateway.observe()
        assert seen.is_direct is False
        assert [lane.up for lane in seen.lanes] == [frozenset({"proxy"}), frozenset({"proxy"})]
        paths = {(await gate.get("/chat/x"))[1]["path"] for _ in range(40)}
        assert paths == {f"/_/{CHAT}/x", f"/_/{NEXT}/x"}


async def test_a_proxy_that_does_not_know_a_cell_yet_gets_none_of_its_requests(tmp_path: Path) -> None:
    async with front(settings(tmp_path, is_direct=False)) as gate, replicas((CHAT, "proxy")) as (proxy,):
        await gate.gateway.route(table(service("chat", (NEXT, 10000))))
        await gate.gateway.refresh({NEXT: (proxy.endpoint,)}, complete=True)
        assert (await gate.get("/chat/x"))[0] == 503
        proxy.serves = {CHAT, NEXT}

        async def served() -> bool:
            return (await gate.get("/chat/x"))[0] == 200

        await eventually(served)
        assert not [path for path in proxy.executed if path != "GET /x"]


async def test_a_refused_endpoint_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with front(settings(tmp_path)) as gate, replicas((CHAT, "one")) as (one,):
        dead = Endpoint(ip="127.0.0.1", port=free_port(), replica="dead")
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            mute = Endpoint(ip="127.0.0.1", port=silent.getsockname()[1], replica="mute")
            await gate.gateway.route(WHOLE)
            await gate.gateway.refresh({CHAT: (dead, mute, one.endpoint)}, complete=True)
            await gate.until_up(one)
        assert set(await gate.gateway.servers(CHAT)) == {"one"}


async def test_stop_lets_requests_in_flight_finish(tmp_path: Path) -> None:
    async with (
        replicas((CHAT, "one")) as (one,),
        front(settings(tmp_path)) as gate,
        client() as session,
    ):
        await gate.serve(WHOLE, one)
        async with session.get(gate.url("/chat/stream")) as stream:
            await stream.content.readuntil(b"\n\n")
            stopping = asyncio.create_task(gate.gateway.stop(datetime.timedelta(seconds=10)))

            async def closed() -> bool:
                try:
                    await gate.get("/chat/x")
                except aiohttp.ClientConnectorError:
                    return True
                return False

            await eventually(closed)
            one.release.set()
            assert (await stream.content.read()).endswith(b"data: end\n\n")
            await stopping
