"""The API's listening socket: it lets in what the process has room for, and of one address a part of that.

A connection costs a file before it has said anything. Without a limit here, a thousand that say nothing would leave
none for Ray, Git, HAProxy and the store.
"""

from __future__ import annotations

import resource
import socket
from weakref import WeakKeyDictionary

from reconciler.api.rates import caller

MOST_CONNECTIONS = 1_000
"""More are closed as soon as they come."""
TURNED_AWAY = 256
"""At one go, so that the event loop gets on with its work while they are coming."""


class Door(socket.socket):
    """Accepts while there is room; a connection beyond is closed before it costs anything."""

    def __init__(self, family: socket.AddressFamily) -> None:
        """Nobody is in yet."""
        super().__init__(family, socket.SOCK_STREAM)
        self._guests: WeakKeyDictionary[socket.socket, str] = WeakKeyDictionary()

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        """Return the next connection that is let in. Raises BlockingIOError when none waits, as any socket does."""
        for _ in range(TURNED_AWAY):
            guest, address = super().accept()
            if self._has_room(caller(address[0])):
                self._guests[guest] = caller(address[0])
                return guest, address
            guest.close()
        raise BlockingIOError

    def _has_room(self, who: str) -> bool:
        inside = [name for guest, name in self._guests.items() if guest.fileno() >= 0]
        most = self.most()
        return len(inside) < most and inside.count(who) < max(1, most // 2)

    @staticmethod
    def most() -> int:
        """Return how many may be open at once: half of the files that the process may have is for everything else."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(2, min(MOST_CONNECTIONS, soft // 2))
