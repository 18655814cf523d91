"""Serves the application: binds first, so that a taken port is told before anything else is done."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace

import uvicorn
from starlette.applications import Starlette

from reconciler.errors import Stalled
from reconciler.settings import Address

PATIENCE = 3
"""Seconds that open requests get at shutdown; streams and long polls end within one."""


class ApiServer:
    """One listening socket and the application behind it."""

    def __init__(self, address: Address) -> None:
        """Bind `address` at once. Raises Stalled when that is not possible."""
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
        )
        server = _QuietServer(config)
        task = asyncio.ensure_future(server.serve(sockets=[self._socket]))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            app.state.closing.set()
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await task
            raise
        finally:
            self._socket.close()

    def close(self) -> None:
        """Give the address back without having served."""
        self._socket.close()


class _QuietServer(uvicorn.Server):
    """Signals belong to the daemon, which cancels `serve`; uvicorn must not take them over."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave all signals alone."""
        yield


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
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
