"""A connection to whichever of a host's addresses answers first, given up as soon as nobody wants it any more."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from typing import Any

from loaders.safetensors.sources.interrupt import Interrupt, waited

CONNECT_SECONDS = 10.0
"""For all addresses of a host together, the look-up of its name included."""
NEXT_ADDRESS_AFTER = 0.25
"""An address that has not answered for so long gets a rival (RFC 8305): a dead first address must not cost seconds."""
LOOK_EVERY = 0.05
"""Seconds after which an interrupt is seen."""

Address = tuple[int, int, int, Any]


def connect(host: str, port: int, interrupt: Interrupt, within: float | None = None) -> socket.socket:
    """Return a connected, blocking socket. Raise `OSError` if no address answers, or the interrupt's error."""
    race = _Race(_addresses(host, port, interrupt), time.monotonic() + (within or CONNECT_SECONDS))
    try:
        while True:
            interrupt.check()
            found = race.step()
            if found is not None:
                found.setblocking(True)
                return found
    finally:
        race.close()


def _addresses(host: str, port: int, interrupt: Interrupt) -> list[Address]:
    with contextlib.suppress(socket.gaierror):  # a number needs no look-up, and no thread that waits for one
        return _found(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    return _found(waited(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), interrupt))


def _found(answers: list[Any]) -> list[Address]:
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in answers]


class _Race:
    """Attempts under way, one more now and then; the first that connects wins."""

    def __init__(self, addresses: list[Address], until: float) -> None:
        self._left = list(reversed(addresses))
        self._until = until
        self._next_at = 0.0
        self._running: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._error: OSError = TimeoutError("timed out")

    def step(self) -> socket.socket | None:
        """Wait a moment; return who has connected, `None` if nobody has yet."""
        now = time.monotonic()
        if now >= self._until:
            raise TimeoutError("timed out")
        if self._left and (now >= self._next_at or not self._running):
            self._begin(self._left.pop())
            self._next_at = now + NEXT_ADDRESS_AFTER
        if not self._running and not self._left:
            raise self._error
        wait = min(LOOK_EVERY, self._until - now) if self._running else 0.0
        for descriptor, _ in self._poll.poll(max(0.0, wait) * 1000):
            attempt = self._drop(descriptor)
            code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return attempt
            self._failed(attempt, OSError(code, os.strerror(code)))
        return None

    def _begin(self, address: Address) -> None:
        family, kind, protocol, target = address
        try:
            attempt = socket.socket(family, kind, protocol)
        except OSError as error:  # a machine without IPv6, say
            self._error = error
            return
        attempt.setblocking(False)
        try:
            attempt.connect(target)
        except BlockingIOError:
            pass
        except OSError as error:
            self._failed(attempt, error)
            return
        self._running[attempt.fileno()] = attempt
        self._poll.register(attempt, select.POLLOUT)

    def _drop(self, descriptor: int) -> socket.socket:
        self._poll.unregister(descriptor)
        return self._running.pop(descriptor)

    def _failed(self, attempt: socket.socket, error: OSError) -> None:
        attempt.close()
        self._error = error

    def close(self) -> None:
        """Close the losers."""
        for descriptor in list(self._running):
            self._drop(descriptor).close()
