"""Who keeps the gateway right: the daemon while there is one, else its keeper. Two locks that the kernel drops.

Whoever supervises HAProxy holds `supervisor`. A daemon holds `claim` as well, from its start to its end: a keeper
that sees it taken lets go. Nothing here imports more than it must: a keeper that waits costs almost nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from reconciler.errors import Stalled
from reconciler.pids import start_of

CLAIM = "claim.lock"
SUPERVISOR = "supervisor.lock"
KEEPER = "keeper.pid"
LOG = "keeper.log"
MAX_LOG = 1 << 20

LET_GO_WITHIN = 10.0
"""Seconds that a keeper has to let go: it hangs when it needs longer, and is killed."""

GLANCE = 0.05

_children: list[subprocess.Popen[bytes]] = []
"""Keepers outlive the daemon on purpose; `Popen` would warn when it is forgotten."""


class Claim:
    """A daemon's hold on the gateway's folder, for as long as its process lives."""

    def __init__(self, folder: Path) -> None:
        """Nothing is held yet. Raises Stalled when the folder cannot be used."""
        self._folder = folder
        self._files: list[int] = []
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Stalled(f"the gateway's folder {folder} cannot be used: {error.strerror}") from error

    def take(self) -> None:
        """Take the gateway over from whatever keeper has it. Blocks for a moment: run it in a thread."""
        self._files = [open_lock(self._folder / CLAIM)]
        self._lock(self._files[0])
        self._files.append(open_lock(self._folder / SUPERVISOR))
        if not self._try(self._files[1], LET_GO_WITHIN):
            end_keeper(self._folder, signal.SIGKILL)
            self._lock(self._files[1])
        end_keeper(self._folder, signal.SIGKILL)  # One that only waits knows an older daemon's settings.

    def release(self) -> None:
        """Let go, as the end of the process does."""
        while self._files:
            os.close(self._files.pop())

    def _lock(self, file: int) -> None:
        if not self._try(file, LET_GO_WITHIN):
            raise Stalled(f"another process holds the gateway's folder {self._folder}: is a second daemon starting?")

    @staticmethod
    def _try(file: int, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                return False
            time.sleep(GLANCE)
        return True


def open_lock(path: Path) -> int:
    """Return the descriptor of a lock file. Raises Stalled."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Stalled(f"cannot open the lock {path}: {error.strerror}") from error


def try_lock(file: int, kind: int) -> bool:
    """Lock without waiting; return whether that worked."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_keeper(folder: Path, settings: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Start a keeper in a session of its own. `settings` go through a pipe: command lines are for everybody to read."""
    log = folder / LOG
    with suppress(OSError):
        if log.stat().st_size > MAX_LOG:
            os.truncate(log, 0)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "reconciler.keeper", str(folder.absolute())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children.append(child)
    with suppress(OSError):
        if child.stdin is not None:
            child.stdin.write(json.dumps(settings).encode())
            child.stdin.close()
    write_pid(folder, child.pid)
    return child


def write_pid(folder: Path, pid: int) -> None:
    """Note which keeper is the one: any other that wakes up goes."""
    draft = folder / f".{KEEPER}.new"
    draft.write_text(f"{pid} {start_of(pid) or 0}\n")
    draft.replace(folder / KEEPER)


def keeper_of(folder: Path) -> int | None:
    """Return the process of the folder's keeper while it lives, else None."""
    try:
        pid, started = map(int, (folder / KEEPER).read_text().split())
    except (OSError, ValueError):
        return None
    return pid if start_of(pid) == started else None


def end_keeper(folder: Path, number: signal.Signals = signal.SIGTERM, *, within: float = LET_GO_WITHIN) -> bool:
    """End the folder's keeper and wait for that; return whether there was one.

    On SIGTERM it ends HAProxy too, if there is no daemon.
    """
    pid = keeper_of(folder)
    if pid is None:
        return False
    deadline = time.monotonic() + within
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    while keeper_of(folder) == pid:
        for child in _children:
            child.poll()
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(GLANCE)
    return True
