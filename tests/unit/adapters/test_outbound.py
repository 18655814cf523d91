"""Calls to user-given addresses: where they go, and where they never do."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reconciler.adapters.outbound import Call, Outbound, Reply, Resolver, resolve
from reconciler.errors import PortError, Retry, Stalled
from reconciler.settings import AllowedHost
from tests.local_http import LocalServer, drop_by_drop, hanging_up, never, saying, serving, without_end

SHORT = timedelta(seconds=5)


class Names:
    """A resolver that knows what a test tells it; the answers of one name may follow each other."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = [list(answer) for answer in answers]
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


LOOPBACK = Names(["127.0.0.1"])


def allowing(*hosts: str, resolver: Resolver = LOOPBACK, tls: ssl.SSLContext | None = None) -> Outbound:
    return Outbound([_rule(host) for host in hosts], resolver=resolver, tls=tls)


def _rule(text: str) -> AllowedHost:
    host, _, port = text.partition(":")
    return AllowedHost(host=host, port=int(port) if port else None)


async def get(outbound: Outbound, url: str, *, within: timedelta = SHORT, limit: int = 1000) -> Reply:
    async with outbound:
        return await outbound.send(Call(method="GET", url=url, within=within, limit=limit))


async def test_an_allowed_host_is_called_under_its_own_name() -> None:
    async with serving(saying(200, b"yes")) as server, allowing(f"localhost:{server.port}") as outbound:
        call = Call(
            method="POST",
            url=f"http://localhost:{server.port}/hook?a=b",
            within=SHORT,
            headers={"Idempotency-Key": "k1"},
            content=b"{}",
        )
        reply = await outbound.send(call)
    assert (reply.status, reply.body) == (200, b"yes")
    (heard,) = server.heard
    assert (heard.method, heard.path, heard.body) == ("POST", "/hook?a=b", b"{}")
    assert heard.headers["host"] == f"localhost:{server.port}"
    assert heard.headers["idempotency-key"] == "k1"


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("", "http://localhost/"),
        ("hooks.example", "http://other.example/"),
        ("hooks.example", "http://hooks.example:8443/"),
        ("hooks.example:8443", "https://hooks.example/"),
        ("*.hooks.example", "http://hooks.example/"),
        ("*.hooks.example", "http://nohooks.example/"),
        ("hooks.example", "http://hooks.example.evil.example/"),
        ("hooks.example", "http://127.0.0.1/"),
    ],
)
async def test_what_the_settings_do_not_allow_is_not_even_looked_up(allowed: str, url: str) -> None:
    names = Names(["93.184.215.14"])
    with pytest.raises(Stalled, match=r"do not allow this host.*--allow-host"):
        await get(allowing(*filter(None, [allowed]), resolver=names), url)
    assert names.asked == []


@pytest.mark.parametrize(
    "url", ["ftp://hooks.example/", "http://", "http://user:pw@hooks.example/", "http://hooks.example:99999/", "x"]
)
async def test_other_addresses_than_plain_http_are_refused(url: str) -> None:
    with pytest.raises(Stalled) as refused:
        await get(allowing("hooks.example"), url)
    assert "pw" not in refused.value.reason


@pytest.mark.parametrize(
    "addresses",
    [["169.254.169.254"], ["93.184.215.14", "169.254.169.254"], ["::ffff:169.254.169.254"], ["127.0.0.1"], ["0.0.0.0"]],
)
async def test_an_allowed_name_that_leads_elsewhere_is_refused(addresses: list[str]) -> None:
    async with serving(saying(200)) as server:
        names = Names(addresses)
        with pytest.raises(Stalled, match="is not called"):
            await get(allowing(f"hooks.example:{server.port}", resolver=names), f"http://hooks.example:{server.port}/")
        assert server.heard == []


async def test_the_address_that_was_checked_is_the_one_that_is_called() -> None:
    """A name that changes between the check and the connection changes nothing: it is looked up once."""
    async with serving(saying(200, b"checked")) as good, serving(saying(200, b"evil"), host="127.0.0.2") as evil:
        evil_first = Names(["127.0.0.1"], ["127.0.0.2"])
        outbound = allowing(f"localhost:{good.port}", resolver=evil_first)
        assert (await get(outbound, f"http://localhost:{good.port}/")).body == b"checked"
        assert evil_first.asked == [("localhost", good.port)]
        assert evil.heard == []


async def test_a_name_is_checked_anew_at_each_call() -> None:
    async with serving(saying(200)) as server:
        async with allowing(f"localhost:{server.port}", resolver=Names(["127.0.0.1"], ["169.254.169.254"])) as outbound:
            call = Call(method="GET", url=f"http://localhost:{server.port}/", within=SHORT)
            assert (await outbound.send(call)).status == 200
            with pytest.raises(Stalled, match="link-local"):
                await outbound.send(call)
        assert len(server.heard) == 1


async def test_the_next_address_is_tried_when_one_refuses_the_connection() -> None:
    async with serving(saying(200, b"second")) as server:
        outbound = allowing(f"localhost:{server.port}", resolver=Names(["127.0.0.3", "127.0.0.1"]))
        assert (await get(outbound, f"http://localhost:{server.port}/")).body == b"second"


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data/?token=s3cret", "/elsewhere", ""])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_refused(status: int, target: str) -> None:
    async with serving(saying(status, Location=target)) as server:
        with pytest.raises(Stalled, match="redirects") as refused:
            await get(allowing(f"localhost:{server.port}"), f"http://localhost:{server.port}/")
        assert len(server.heard) == 1
    assert "s3cret" not in refused.value.reason


@pytest.mark.parametrize("answer", [never, drop_by_drop])
async def test_a_slow_server_is_given_up_in_time(answer: object) -> None:
    async with serving(answer) as server:  # type: ignore[arg-type]
        started = datetime.datetime.now(datetime.UTC)
        with pytest.raises(Retry, match=r"did not answer within 0\.4 s"):
            await get(
                allowing(f"localhost:{server.port}"),
                f"http://localhost:{server.port}/",
                within=timedelta(seconds=0.4),
                limit=1_000_000,
            )
        assert datetime.datetime.now(datetime.UTC) - started < timedelta(seconds=20)  # The machine may be busy.


async def test_a_resolver_that_hangs_is_given_up_in_time() -> None:
    async def hang(host: str, port: int) -> Sequence[str]:
        await never(None, None)  # type: ignore[arg-type]
        return ()

    with pytest.raises(Retry, match="did not answer within"):
        await get(allowing("hooks.example", resolver=hang), "http://hooks.example/", within=timedelta(seconds=0.2))


async def test_a_huge_answer_is_not_read_to_its_end() -> None:
    async with serving(without_end) as server:
        with pytest.raises(Retry, match="more than 1000 bytes"):
            await get(allowing(f"localhost:{server.port}"), f"http://localhost:{server.port}/")


@pytest.mark.parametrize("body", [b"x" * 999, b"x" * 1000])
async def test_an_answer_within_the_limit_is_read_whole(body: bytes) -> None:
    async with serving(saying(500, body)) as server:
        reply = await get(allowing(f"localhost:{server.port}"), f"http://localhost:{server.port}/")
    assert (reply.status, reply.body) == (500, body)


async def test_a_connection_that_breaks_is_tried_again_later() -> None:
    async with serving(hanging_up) as server:
        with pytest.raises(Retry, match="cannot be reached"):
            await get(allowing(f"localhost:{server.port}"), f"http://localhost:{server.port}/")
    with pytest.raises(Retry, match="cannot be reached"):
        await get(allowing(f"localhost:{server.port}"), f"http://localhost:{server.port}/")


async def test_a_connection_that_breaks_at_the_first_of_several_addresses_is_tried_again_later() -> None:
    """What was sent may have been heard: the next address does not get it too."""
    async with serving(hanging_up) as server:
        outbound = allowing(f"localhost:{server.port}", resolver=Names(["127.0.0.1", "127.0.0.2"]))
        with pytest.raises(Retry, match="cannot be reached"):
            await get(outbound, f"http://localhost:{server.port}/")


@pytest.mark.parametrize("label", ["", "a" * 64])
async def test_what_is_no_host_name_is_refused(label: str) -> None:
    with pytest.raises(Stalled, match="this is no host name"):
        await get(allowing("*.hooks.example", resolver=resolve), f"https://a.{label}.hooks.example/")


async def test_a_name_that_nobody_knows_is_tried_again_later() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError(8, "Name or service not known")

    with pytest.raises(Retry, match=r"cannot be resolved \(Name or service"):
        await get(allowing("hooks.example", resolver=unknown), "http://hooks.example/")


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(saying(200, b"direct")) as server, serving(saying(200, b"proxy")) as proxy:
        for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, proxy.url)
        outbound = allowing(f"localhost:{server.port}")
        assert (await get(outbound, f"http://localhost:{server.port}/")).body == b"direct"
        assert proxy.heard == []


async def test_what_a_path_holds_is_in_no_message() -> None:
    secret = "/services/T0/s3cret?token=s3cret"
    reasons = []
    async with serving(hanging_up) as broken, serving(saying(302, Location="/s3cret")) as moved:
        for server in (broken, moved):
            reasons.append(await _reason(server, secret))
    reasons.append(await _reason(LocalServer(answer=never, port=9), secret, allowed="nobody.example"))
    assert len(reasons) == 3
    assert not any("s3cret" in reason for reason in reasons)


async def _reason(server: LocalServer, path: str, *, allowed: str = "") -> str:
    try:
        await get(allowing(allowed or f"localhost:{server.port}"), f"http://localhost:{server.port}{path}")
    except PortError as error:
        return error.reason
    raise AssertionError("nothing was raised")


# -- TLS ------------------------------------------------------------------------------------------------------


def _certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context with a certificate for `name`, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cadata=made.public_bytes(serialization.Encoding.PEM).decode())


async def test_a_certificate_is_checked_against_the_name_that_was_written(tmp_path: Path) -> None:
    server_tls, client_tls = _certificate(tmp_path, "localhost")
    async with serving(saying(200, b"safe"), tls=server_tls) as server:
        outbound = allowing(f"localhost:{server.port}", tls=client_tls)
        assert (await get(outbound, f"https://localhost:{server.port}/")).body == b"safe"


async def test_another_name_s_certificate_is_refused(tmp_path: Path) -> None:
    server_tls, client_tls = _certificate(tmp_path, "other.example")
    async with serving(saying(200, b"evil"), tls=server_tls) as server:
        with pytest.raises(Retry, match=r"cannot be reached.*certificate"):
            await get(allowing(f"localhost:{server.port}", tls=client_tls), f"https://localhost:{server.port}/")
        assert server.heard == []
