"""A server with TLS before an origin without, and a certificate that only who is told of its authority trusts."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.loading.servers import RangeServer


def issue(folder: Path) -> Path:
    """Write `server.pem`, a certificate for 127.0.0.1 with its key; return its authority's own certificate."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("authority", authority, is_authority=True).sign(authority, hashes.SHA256())
    leaf = _certificate("server", key, is_authority=False).sign(authority, hashes.SHA256())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(leaf.public_bytes(Encoding.PEM) + secret)
    (folder / "authority.pem").write_bytes(root.public_bytes(Encoding.PEM))
    return folder / "authority.pem"


def _certificate(name: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )


class Forwarding(socketserver.BaseRequestHandler):
    """One connection: TLS towards the client, none towards the origin."""

    server: Forwarder

    def handle(self) -> None:
        with (
            contextlib.suppress(OSError),
            self.server.context.wrap_socket(self.request, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self.server.origin)) as origin,
        ):
            answers = threading.Thread(target=pour, args=(origin, client), daemon=True)
            answers.start()
            pour(client, origin)
            answers.join()


def pour(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes until either side ends, and let the other one know."""
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Forwarder(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, origin: int, certificate: Path) -> None:
        self.origin = origin
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        super().__init__(("127.0.0.1", 0), Forwarding)


@contextlib.contextmanager
def tls_before(origin: RangeServer, certificate: Path) -> Iterator[int]:
    """Forward what comes over TLS to the origin until the block ends; return the port."""
    with Forwarder(origin.port, certificate) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
