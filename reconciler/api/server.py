"""Serves the application: binds first, so that a taken port is told before anything else is done."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import structlog
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from reconciler.api.door import MOST_CONNECTIONS, Door
from reconciler.errors import Stalled
from reconciler.settings import Address

log = structlog.get_logger("heliostat")

CERTIFICATE_GLANCE = 30.0
"""Seconds between looks at the certificate's file."""
PATIENCE = 3
"""Seconds that open requests get at shutdown; streams and long polls end within one."""


class ApiServer:
    """One listening socket and the application behind it."""

    def __init__(self, address: Address, tls: Path | None = None) -> None:
        """Bind `address` at once; `tls` is a PEM file with certificate and key. Raises Stalled when it cannot be."""
        self._tls = Certificate(tls) if tls is not None else None
        self._socket = _bind(address)
        self.address = replace(address, port=self._socket.getsockname()[1])
        """The address in use; its port is a real one even if 0 was asked for."""

    async def serve(self, app: Starlette) -> None:
        """Answer requests until cancelled; open streams are ended, not cut."""
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=True,
            proxy_headers=False,
            timeout_graceful_shutdown=PATIENCE,
            ws="none",
            http=Impatient,
            limit_concurrency=MOST_CONNECTIONS,
        )
        config.load()
        if self._tls is not None:
            config.ssl = self._tls.context
        server = _QuietServer(config)
        task = asyncio.ensure_future(server.serve(sockets=[self._socket]))
        renewal = asyncio.ensure_future(self._tls.renewed() if self._tls else asyncio.sleep(0))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            app.state.closing.set()
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await task
            raise
        finally:
            renewal.cancel()
            self._socket.close()

    def close(self) -> None:
        """Give the address back without having served."""
        self._socket.close()


class Impatient(H11Protocol):
    """Ends a connection on which no request comes in time: whoever opens many and says nothing would shut out all."""

    headers_within = 10.0
    """Seconds from the connection, or the answer before, to the end of a request's headers."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._expect()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        if self._waiting is not None:
            self._waiting.cancel()

    def _expect(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(self.headers_within, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Certificate:
    """A certificate with its key in one PEM file; a file that is exchanged is taken over without a restart."""

    def __init__(self, pem: Path) -> None:
        """Raises Stalled when the file holds no certificate with its key."""
        self._pem = pem
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load()

    def _load(self) -> None:
        try:
            self._seen = self._pem.stat().st_mtime_ns
            # Tried on another context: one that fails halfway would leave a certificate without its key.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._pem)
            self.context.load_cert_chain(self._pem)
        except OSError as error:
            raise Stalled(f"{self._pem} is no PEM file with a certificate and its key: {error}") from error

    async def renewed(self) -> None:
        """Load the file again whenever it was exchanged; one that is wrong leaves the certificate as it was."""
        while True:
            await asyncio.sleep(CERTIFICATE_GLANCE)
            with suppress(OSError, Stalled):
                if self._pem.stat().st_mtime_ns != self._seen:
                    self._load()
                    log.info("the API's certificate was exchanged", file=str(self._pem))


class _QuietServer(uvicorn.Server):
    """Signals belong to the daemon, which cancels `serve`; uvicorn must not take them over."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave all signals alone."""
        yield


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = Door(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen(256)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise Stalled(f"{address} is in use: stop what listens there, or choose another --listen") from error
        raise Stalled(f"cannot listen on {address}: {error.strerror}") from error
    listening.setblocking(False)
    return listening
