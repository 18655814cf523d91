"""Who may do what: tokens and roles, how often, and over TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import select
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from click.testing import CliRunner

from reconciler.adapters import api_tokens
from reconciler.adapters.api_tokens import TokenFile
from reconciler.api.app import make_app
from reconciler.api.guard import Access
from reconciler.api.rates import MOST_ADDRESSES, Limiter, Rate, caller
from reconciler.api.server import ApiServer, Certificate, Impatient
from reconciler.cli.main import heliostat
from reconciler.errors import Stalled
from reconciler.grants import Grant, Role
from reconciler.settings import Address, Secret
from tests.unit.api.backends import MemoryBackend
from tests.unit.api.serving import TOKEN, FixedClock, serving

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


def client(tokens: TokenFile, backend: MemoryBackend | None = None, **access: object) -> httpx.AsyncClient:
    given = Access(token=Secret(TOKEN), find=tokens.find, **access)  # type: ignore[arg-type]
    app = make_app(backend or MemoryBackend(), given, FixedClock())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8484")


def bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str) -> Mapping[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{token}".encode()).decode()}


async def test_a_token_acts_by_its_role_and_under_its_name(tmp_path: Path) -> None:
    tokens, backend = TokenFile(tmp_path), MemoryBackend()
    reader = tokens.make("dashboard", Role.READ, NOW)
    operator = tokens.make("pipeline", Role.OPERATE, NOW)
    async with client(tokens, backend) as http:
        path = "/api/v1/services/chat/pause"
        refused = await http.post(path, json={}, headers=bearer(reader))
        assert (refused.status_code, "may read only" in refused.json()["detail"]) == (403, True)
        assert (await http.post(path, json={}, headers=bearer(operator))).status_code == 202
        assert (await http.post(path, json={"by": "ann"}, headers=bearer(TOKEN))).status_code == 202
        assert [command.by for command in backend.commands] == ["pipeline", "ann"]
        for headers in (
            basic(operator),
            {},
            bearer(operator[:-1]),
            bearer(f"{operator}x"),
            bearer("hst__"),
            bearer(""),
        ):
            assert (await http.post(path, json={}, headers=headers)).status_code == 401
        for page in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await http.post(path, json={}, headers={**bearer(operator), **page})).status_code == 403
        tokens.revoke("pipeline")
        assert (await http.post(path, json={}, headers=bearer(operator))).status_code == 401
    assert len(backend.commands) == 2


async def test_reading_may_be_closed_and_probes_stay_open(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path)
    reader = tokens.make("dashboard", Role.READ, NOW)
    async with client(tokens, reads_need_token=True) as http:
        for path in ("/", "/metrics", "/api/v1/status", "/api/v1/events", "/api/v1/routes", "/static/page.css"):
            answer = await http.get(path)
            assert (path, answer.status_code) == (path, 401)
            assert answer.headers["www-authenticate"].startswith("Basic")
            assert (await http.get(path, headers=bearer("wrong"))).status_code == 401
            for headers in (bearer(reader), basic(reader), bearer(TOKEN)):
                assert (path, (await http.get(path, headers=headers)).status_code) == (path, 200)
        assert (await http.head("/api/v1/status")).status_code in (401, 405)
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        for broken in ("Basic !!!", "Basic /w==", "Basic", "Digest x"):
            assert (await http.get("/metrics", headers={"Authorization": broken})).status_code == 401


async def test_every_answer_has_the_security_headers(tmp_path: Path) -> None:
    async with client(TokenFile(tmp_path), reads_need_token=True, rate=Rate(per_second=1, burst=2)) as http:
        answers = [await http.get("/metrics"), await http.get("/", headers=bearer(TOKEN)), await http.get("/")]
    assert [answer.status_code for answer in answers] == [401, 200, 429]
    for answer in answers:
        for header in ("content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy"):
            assert header in answer.headers
        assert answer.headers["cache-control"] == "no-store"


# -- the file ----------------------------------------------------------------------------------------------------------


def test_no_token_is_kept_that_could_be_used(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path)
    made = tokens.make("pipeline", Role.OPERATE, NOW)
    path = tmp_path / api_tokens.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.split("_", 2)[2] not in path.read_text()
    (entry,) = json.loads(path.read_text())
    assert tokens.find(f"hst_{entry['id']}_{entry['hash']}") is None
    assert tokens.find(entry["hash"]) is None
    assert tokens.find(made) == Grant(name="pipeline", role=Role.OPERATE)


def test_every_look_up_compares_hashes_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = TokenFile(tmp_path)
    made = tokens.make("a", Role.READ, NOW)
    compared: list[str] = []
    real = api_tokens.hmac.compare_digest
    monkeypatch.setattr(api_tokens.hmac, "compare_digest", lambda a, b: compared.append(b) or real(a, b))
    for text in (made, made + "x", "hst_00000000_x", "", "_", "ünicode"):
        tokens.find(text)
    assert len(compared) == 6


def test_names_are_unique_and_what_is_not_there_cannot_be_revoked(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path)
    tokens.make("a", Role.READ, NOW)
    with pytest.raises(Stalled, match="already"):
        tokens.make("a", Role.OPERATE, NOW)
    with pytest.raises(Stalled, match="no token called"):
        tokens.revoke("b")
    tokens.revoke(tokens.all()[0].id)
    assert tokens.all() == ()


def test_a_broken_file_opens_nothing_and_keeps_the_daemons_own_token(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path)
    made = tokens.make("a", Role.OPERATE, NOW)
    (tmp_path / api_tokens.FILE).write_text("[{]")
    assert tokens.find(made) is None
    assert Access(token=Secret(TOKEN), find=tokens.find).grant(TOKEN) is not None


def test_the_command_line_makes_lists_and_revokes(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(heliostat, ["token", "--state", str(tmp_path), *arguments])
        return done.exit_code, done.output.strip()

    daemon = TokenFile(tmp_path)
    assert daemon.all() == ()
    code, made = run("make", "my pipeline", "--role", "operate")
    assert code == 0
    assert daemon.find(made) == Grant(name="my pipeline", role=Role.OPERATE)
    code, listed = run("list")
    assert (code, "my pipeline" in listed, "operate" in listed) == (0, True, True)
    assert made.split("_", 2)[2] not in listed, "its secret part, which may hold underscores itself"
    assert run("make", "my pipeline", "--role", "read")[0] == 1
    assert run("make", "x", "--role", "admin")[0] == 2
    assert run("make", "a\nb", "--role", "read")[0] == 2
    assert run("revoke", "my pipeline")[0] == 0
    assert daemon.find(made) is None
    assert run("revoke", "my pipeline")[0] == 1


# -- how often ---------------------------------------------------------------------------------------------------------


def test_a_bucket_empties_by_requests_and_fills_by_time() -> None:
    limiter = Limiter(Rate(per_second=2, burst=3))
    assert [limiter.wait("a", NOW) for _ in range(3)] == [None] * 3
    assert limiter.wait("a", NOW) == timedelta(seconds=1)
    assert limiter.wait("b", NOW) is None, "others are not kept waiting"
    assert limiter.wait("a", NOW + timedelta(seconds=0.5)) is None
    assert limiter.wait("a", NOW + timedelta(seconds=0.5)) is not None
    assert limiter.wait("a", NOW - timedelta(days=1)) is not None, "a clock that was set back fills nothing"
    assert [limiter.wait("a", NOW + timedelta(days=1)) for _ in range(4)].count(None) == 3


def test_callers_without_number_fill_no_memory() -> None:
    limiter = Limiter(Rate())
    for number in range(MOST_ADDRESSES + 100):
        limiter.wait(str(number), NOW)
    assert len(limiter._buckets) == MOST_ADDRESSES


def test_one_network_of_ipv6_is_one_caller() -> None:
    limiter = Limiter(Rate(per_second=1, burst=2))
    found = [limiter.wait(f"2001:db8:1:2::{number:x}", NOW) for number in range(1, 4)]
    assert [wait is None for wait in found] == [True, True, False]
    assert limiter.wait("2001:db8:1:3::1", NOW) is None
    assert caller("::ffff:192.0.2.7") == caller("192.0.2.7") == "192.0.2.7"
    assert caller("fe80::1%eth0") == caller("fe80::2%eth0")
    assert caller("") == ""


# -- who takes their time ----------------------------------------------------------------------------------------------


def talk(url: str, *parts: bytes, within: float = 10) -> bytes:
    """Send parts, one every fifth of a second, until the server ends the connection; return what it said."""
    host, port = url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=within) as wire:
        for part in parts:
            wire.sendall(part)
            time.sleep(0.2)
        while piece := wire.recv(65536):
            said += piece
    return said


def test_a_connection_on_which_no_request_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Impatient, "headers_within", 0.6)
    with serving(MemoryBackend()) as served:
        begun = time.monotonic()
        assert talk(served.url) == b""
        assert talk(served.url, b"GET /healthz HTTP/1.1\r\n", b"Host: localhost\r\n", b"X: 1\r\n") == b""
        assert talk(served.url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET ").count(b"HTTP/1.1") == 1
        assert time.monotonic() - begun < 8


def test_a_request_under_way_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Impatient, "headers_within", 0.2)
    with serving(MemoryBackend()) as served:
        answer = httpx.get(f"{served.url}/api/v1/routes?wait=1s", headers=etag(served.url), timeout=5, trust_env=False)
        assert answer.status_code in (200, 304)


def etag(url: str) -> dict[str, str]:
    return {"If-None-Match": httpx.get(f"{url}/api/v1/routes", trust_env=False).headers["etag"]}


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.api.guard.BODY_WITHIN", timedelta(seconds=0.5))
    head = (
        b"POST /api/v1/services/chat/pause HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
        b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n" % TOKEN.encode()
    )
    with serving(MemoryBackend()) as served:
        said = talk(served.url, head, b'{"why"')
    assert said.startswith(b"HTTP/1.1 408")
    assert b"did not come within 0.5 s" in said


def let_in(connections: Sequence[socket.socket], expected: int) -> list[bool]:
    """Return which connections stay open, once as many as expected do: one that is turned away is closed at once."""
    deadline = time.monotonic() + 10
    while True:
        found = [not select.select([one], [], [], 0)[0] for one in connections]
        if found.count(True) <= expected or time.monotonic() > deadline:
            time.sleep(0.1)
            return [
                is_open and not select.select([one], [], [], 0)[0]
                for one, is_open in zip(connections, found, strict=True)
            ]
        time.sleep(0.02)


def test_connections_that_say_nothing_leave_the_daemon_its_files_and_others_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process may often have 1,024 files open: that many idle connections must not be let in."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (40, 40))
    with serving(MemoryBackend()) as served, ExitStack() as held:
        address = urlsplit(served.url)

        def call(source: str) -> socket.socket:
            target = (str(address.hostname), int(address.port or 0))
            return held.enter_context(socket.create_connection(target, timeout=5, source_address=(source, 0)))

        crowd = [call("127.0.0.1") for _ in range(14)]
        assert let_in(crowd, 10) == [True] * 10 + [False] * 4, "of one address half of the room"
        elsewhere = call("127.0.0.2")
        elsewhere.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert elsewhere.recv(100).startswith(b"HTTP/1.1 200")
        others = [call(f"127.0.0.{3 + last}") for last in range(12)]
        assert let_in(others, 9) == [True] * 9 + [False] * 3, "half of the files that the process may have"
        held.close()
        deadline = time.monotonic() + 5
        while not all(found := let_in([call("127.0.0.1")], 1)) and time.monotonic() < deadline:
            pass
        assert all(found), "who leaves makes room"


# -- TLS ---------------------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> Path:
    pem, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", pem, "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / f"{name}.pem"
    both.write_text(pem.read_text() + key.read_text())
    return both


async def test_the_api_speaks_tls_and_takes_a_new_certificate_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.api.server.CERTIFICATE_GLANCE", 0.02)
    served = certificate(tmp_path, "first")
    server = ApiServer(Address(host="127.0.0.1", port=0), served)
    app = make_app(MemoryBackend(), Access(token=Secret(TOKEN)), FixedClock())
    task = asyncio.ensure_future(server.serve(app))
    try:

        async def trusting(pem: Path) -> httpx.Response:
            tls = ssl.create_default_context(cafile=str(pem))
            async with httpx.AsyncClient(verify=tls, trust_env=False) as http:
                return await http.get(f"https://{server.address}/api/v1/status")

        answer = await trusting(tmp_path / "first.crt")
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"]
        with pytest.raises(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False) as http:
                await http.get(f"http://{server.address}/api/v1/status")
        served.write_text("half a file")
        await asyncio.sleep(0.1)
        assert (await trusting(tmp_path / "first.crt")).status_code == 200
        second = certificate(tmp_path, "second")
        served.write_text(second.read_text())
        async with asyncio.timeout(5):
            while True:
                with suppress(httpx.ConnectError):
                    await trusting(tmp_path / "second.crt")
                    break
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_a_file_without_a_key_does_not_start(tmp_path: Path) -> None:
    certificate(tmp_path, "a")
    with pytest.raises(Stalled, match="no PEM file with a certificate and its key"):
        Certificate(tmp_path / "a.crt")


def test_the_command_line_checks_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler.cli.client import Daemon, DaemonError

    assert Daemon(server="http://x")._trusted is False
    assert Daemon(server="https://x")._trusted is True
    certificate(tmp_path, "a")
    monkeypatch.setenv("HELIOSTAT_CA_FILE", str(tmp_path / "a.crt"))
    assert isinstance(Daemon(server="https://x")._trusted, ssl.SSLContext)
    monkeypatch.setenv("HELIOSTAT_CA_FILE", str(tmp_path / "none"))
    with pytest.raises(DaemonError, match="HELIOSTAT_CA_FILE"):
        _ = Daemon(server="https://x")._trusted
