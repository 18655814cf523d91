"""Keeps the demo's daemon: ends it, and the HAProxy that it leaves serving, when the demo ends in any way.

    python -m reconciler.demo.warden STATE REMOVE COMMAND...

The demo holds the other end of this process's stdin. The kernel closes it also for a demo that was killed,
which cannot clear anything up itself. REMOVE is the temporary folder to delete in that case, or "".
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from reconciler.adapters.state_folder import SERVERS, default_folder

STOP_SECONDS = 10.0
"""The daemon ends open streams and its git calls first."""

GOOD_BYE = b"."
"""What a demo writes that clears its folder up itself, before it closes the pipe."""


def keep(command: Sequence[str], state: Path, remove: str, leash: int) -> int:
    """Run the command until it ends or `leash` is closed; return its exit status once nothing is left of it."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    # Only now: a child inherits what its parent ignores.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    said = _wait(child, leash)
    _end(child)
    end_gateways(state / "gateway")
    _forget_pointers(state)
    if remove and said is not None and said != GOOD_BYE:
        shutil.rmtree(remove, ignore_errors=True)
    return child.returncode


def _wait(child: subprocess.Popen[bytes], leash: int) -> bytes | None:
    """Return what the demo said before it let go, or None when the command ended by itself."""
    ended, said = os.pidfd_open(child.pid), b""
    with selectors.DefaultSelector() as selector:
        selector.register(leash, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        try:
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if leash in ready:
                    read = os.read(leash, 64)
                    if not read:
                        return said
                    said += read
                elif ended in ready:
                    return None
        finally:
            os.close(ended)


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def end_gateways(folder: Path) -> None:
    """Kill each HAProxy that works in `folder`: it outlives its daemon on purpose, but not a demo."""
    deadline = time.monotonic() + STOP_SECONDS
    while (found := gateways(folder)) and time.monotonic() < deadline:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def gateways(folder: Path) -> frozenset[int]:
    """Return the processes whose executable is HAProxy and whose working directory is `folder`."""
    wanted = folder.resolve()
    found = set()
    for process in Path("/proc").iterdir():
        # Processes end while we look, and those of other users cannot be read.
        with suppress(OSError):
            works_here = process.name.isdecimal() and (process / "cwd").readlink() == wanted
            if works_here and (process / "exe").readlink().name == "haproxy":
                found.add(int(process.name))
    return frozenset(found)


def _forget_pointers(state: Path) -> None:
    """Remove the notes by which the command line finds this daemon's token."""
    wanted = str(state.resolve())
    for pointer in (default_folder(os.environ) / SERVERS).glob("*"):
        with suppress(OSError):
            if pointer.read_text().strip() == wanted:
                pointer.unlink()


def main() -> int:
    """Keep the command of the command line."""
    state, remove, *command = sys.argv[1:]
    status = keep(command, Path(state), remove, sys.stdin.fileno())
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
