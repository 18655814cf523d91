"""A process of a node among others: `python -m tests.loading.swarm_process TRACKER FOLDER URL START STOP`.

It reads a range through the node's cache and from peers, and prints its SHA-256. `TRACKER` is the socket of a process
that serves one by `served_tracker`.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from tests.loading.swarming import Locked, Machine

KEY = b"tests"


class Front:
    """What is called from other processes."""

    def __init__(self, tracker: Locked) -> None:
        self.tracker = tracker

    def call(self, name: str, *arguments: Any) -> Any:
        return getattr(self.tracker, name)(*arguments)


class Remote:
    """A tracker in another process."""

    def __init__(self, address: str) -> None:
        class Manager(BaseManager):
            pass

        Manager.register("front")
        manager = Manager(address=address, authkey=KEY)
        manager.connect()
        self.front = manager.front()  # type: ignore[attr-defined]
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self.lock:
                return self.front.call(name, *arguments)

        return call


def serve_tracker(tracker: Locked, address: str) -> None:
    """Serve it from a thread of this process, as long as this one lives."""

    class Manager(BaseManager):
        pass

    front = Front(tracker)
    Manager.register("front", callable=lambda: front)
    server = Manager(address=address, authkey=KEY).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    address, folder, url, *span = sys.argv[1:]
    machine = Machine(Path(folder), Remote(address), 0, 1 << 30)  # type: ignore[arg-type]
    start, stop = map(int, span)
    [found] = machine.ranges(machine.open(url), [(start, stop)])
    print(hashlib.sha256(found).hexdigest(), flush=True)


if __name__ == "__main__":
    main()
