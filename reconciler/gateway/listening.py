"""The listening socket: the supervisor owns it and passes it on, so that it outlives every HAProxy."""

from __future__ import annotations

import array
import errno
import os
import socket
from pathlib import Path

from reconciler.errors import Stalled

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


def recover(admin: Path) -> socket.socket | None:
    """Return the listening socket that a running HAProxy holds, or None when it will not give it.

    `_getsocks` is how HAProxy hands its sockets to its own successor; a copy keeps the queue of waiting
    connections alive if that HAProxy dies.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(admin))
            connection.sendall(b"_getsocks\n")
            descriptors = _receive(connection)
        except OSError:
            return None
    if not descriptors:
        return None
    first, *others = descriptors
    for descriptor in others:
        os.close(descriptor)
    os.set_inheritable(first, False)
    listener = socket.socket(fileno=first)
    listener.setblocking(False)
    return listener


def _receive(connection: socket.socket) -> list[int]:
    size = array.array("i").itemsize
    data, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(16 * size))
    descriptors = array.array("i")
    while True:
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % size])
        if descriptors or not data:
            return list(descriptors)
        data, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(16 * size))
