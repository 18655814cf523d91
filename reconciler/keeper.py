"""The gateway's keeper: a process that waits for the daemon's death, and then goes on with the gateway's endpoints.

Endpoints are facts and weights are decisions: it tells HAProxy each second where Ray's replicas are and starts a dead
HAProxy again with the weights that were saved last. It never changes a weight, and knows no cell that the daemon
did not know. A node of which the daemon had been told that it goes is left, as with the daemon. A daemon that starts
takes over without a gap, for HAProxy itself goes on all the time.

Until then it has imported nothing but the standard library and waits for a lock: no time, a few megabytes.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from reconciler.claim import CLAIM, SUPERVISOR, keeper_of, open_lock, try_lock

DYING = 1.0
"""Seconds within which the kernel has dropped both locks of a daemon that died; it drops them one after the other."""


def main() -> None:
    """Wait until there is no daemon, and stand in for it until there is one."""
    folder = Path(sys.argv[1])
    settings = json.loads(sys.stdin.buffer.read() or b"null")
    if settings is None:
        return  # The daemon died before it could say anything.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir(folder)
    fcntl.flock(open_lock(folder / SUPERVISOR), fcntl.LOCK_EX)
    if keeper_of(folder) != os.getpid():
        return  # A later daemon has another one, which knows that one's settings.
    claim = open_lock(folder / CLAIM)
    deadline = time.monotonic() + DYING
    while is_claimed(claim):
        if time.monotonic() > deadline:
            return  # Another daemon is there already, and waits for the lock that we have.
        time.sleep(0.02)
    stand_in(settings, claim)


def is_claimed(claim: int) -> bool:
    """Return whether a daemon is there or about to be."""
    if not try_lock(claim, fcntl.LOCK_SH):
        return True
    fcntl.flock(claim, fcntl.LOCK_UN)
    return False


def stand_in(settings: dict[str, Any], claim: int) -> None:
    """Import what the work takes, and do it."""
    import asyncio

    from reconciler.standby import Standby

    asyncio.run(Standby(settings, lambda: is_claimed(claim)).run())


if __name__ == "__main__":
    main()
