"""The listening socket: the supervisor owns it and passes it on, so that it outlives every HAProxy."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from reconciler.errors import Stalled

_QUESTION = b"_getsocks\n"
_INT = struct.Struct("=i")
_NO_NAMESPACE_NO_INTERFACE_NO_OPTIONS = bytes(1 + 1 + _INT.size)

MAX_SOCKETS = 16

BACKLOG = 4096
"""Requests that wait here while HAProxy is started again."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises Stalled when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Stalled(_explain(host, port, error)) from error
    return listener


def _explain(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"the gateway cannot listen on {host}:{port}: another program has that port; stop it or choose another"
    if error.errno == errno.EACCES:
        return f"the gateway may not listen on {host}:{port}: ports below 1024 need a privilege; choose another"
    return f"the gateway cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; choose another address"


def is_bound_to(listener: socket.socket, host: str, port: int) -> bool:
    """Return whether a recovered socket listens where the gateway should."""
    name = listener.getsockname()
    wanted: object = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    return bool(name[1] == port and name[0] == wanted)


def offer(path: Path) -> socket.socket:
    """Return the socket at which a starting HAProxy asks for the listening one (its option `-x`)."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(str(path))
    door.listen(1)
    door.settimeout(0.1)
    return door


def hand_over(door: socket.socket, listener: socket.socket, is_awaited: Callable[[], bool]) -> bool:
    """Give the listening socket to the HAProxy that asks; return whether one did. Blocks: run it in a thread.

    This is the far side of `_getsocks`, which HAProxy speaks to its predecessor. A socket that came this
    way is HAProxy's own: it gives it on to whoever adopts it. One passed with `bind fd@` it would not.
    """
    with door:
        while is_awaited():
            try:
                connection, _ = door.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(2)
                if connection.recv(64) != _QUESTION:
                    continue
                connection.sendall(_INT.pack(1))
                socket.send_fds(connection, [_NO_NAMESPACE_NO_INTERFACE_NO_OPTIONS], [listener.fileno()])
                return len(connection.recv(_INT.size)) == _INT.size
    return False


def recover(admin: Path) -> socket.socket | None:
    """Return the listening socket that a running HAProxy holds, or None when it will not give it.

    A copy of it keeps the queue of waiting connections alive if that HAProxy dies.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(admin))
            connection.sendall(_QUESTION)
            sockets = [socket.socket(fileno=descriptor) for descriptor in _receive(connection)]
        except OSError:
            return None
    public = [found for found in sockets if found.family in {socket.AF_INET, socket.AF_INET6}]
    for found in sockets:
        if found not in public[:1]:
            found.close()
    if not public:
        return None
    public[0].set_inheritable(False)
    public[0].setblocking(False)
    return public[0]


def _receive(connection: socket.socket) -> list[int]:
    """Return the descriptors that HAProxy sends: first their number, then all of them in one message."""
    data, descriptors, _, _ = socket.recv_fds(connection, _INT.size, MAX_SOCKETS)
    (count,) = _INT.unpack(data)
    while len(descriptors) < count:
        data, more, _, _ = socket.recv_fds(connection, 4096, MAX_SOCKETS)
        if not data:
            break
        descriptors += more
        connection.sendall(_INT.pack(len(descriptors)))
    return descriptors
