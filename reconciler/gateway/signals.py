"""Log lines from HAProxy over a local datagram socket: when each answer's headers came."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.gateway.folder import Folder

LOG_SOCKET = "log.sock"
BATCH = 512
"""Lines read in one go: a flood must not hold up the daemon's loop; the kernel drops what is too much."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One logged answer; it stands for `weight` of them."""

    lane: str
    status: int
    seconds: float
    weight: int
    group: int | None = None
    """Which group of clients asked, where clients stay on their version."""


def parse_line(line: str) -> Answer | None:
    """Read `LANE STATUS TW TC TR WEIGHT GROUP`; None for the gateway's own answers and for requests without one.

    The three times are milliseconds in the queue, to connect, and to the headers; -1: never came to it.
    """
    words = line.split()
    # What a process of an older Heliostat still finishes has no group.
    if len(words) not in {6, 7} or not words[0].startswith("lane"):
        return None
    try:
        status, *times = (int(word.lstrip("+")) for word in words[1:5])
        weight = 1 if words[5] == "-" else int(words[5])
        group = int(words[6]) if words[6:] not in ([], ["-"]) else None
    except ValueError:
        return None
    if min(times) < 0:
        return None
    return Answer(lane=words[0], status=status, seconds=sum(times) / 1000, weight=weight, group=group)


class LogReader:
    """The datagram socket's receiving end, bound anew by each daemon; HAProxy sends to its name."""

    def __init__(self, folder: Folder, take: Callable[[Answer], None]) -> None:
        """Bind the socket; `take` is called for every answer while `run` runs."""
        (folder.path / LOG_SOCKET).unlink(missing_ok=True)
        self._take = take
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.setblocking(False)
        self._socket.bind(str(folder.socket_path(LOG_SOCKET)))
        (folder.path / LOG_SOCKET).chmod(0o600)

    async def run(self) -> None:
        """Read until cancelled, as lines come: the kernel queues few datagrams (10 in some containers)."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._drain)
        try:
            await loop.create_future()
        finally:
            loop.remove_reader(self._socket)

    def _drain(self) -> None:
        for _ in range(BATCH):
            try:
                line = self._socket.recv(512)
            except BlockingIOError:
                return
            answer = parse_line(line.decode(errors="replace"))
            if answer is not None:
                self._take(answer)

    def close(self) -> None:
        """Let the socket go."""
        self._socket.close()
