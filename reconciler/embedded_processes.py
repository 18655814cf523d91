"""Finding and ending every process of an embedded cluster, whoever its parent is by now.

All of them live in the session of the child process that started the cluster: Ray gives workers process
groups of their own, and orphans move to init, but the session stays. What opened a session of its own (a
subprocess of an application may) still carries a mark in its environment.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

MARK = "HELIOSTAT_EMBEDDED_CLUSTER"
"""The environment variable that says which embedded cluster a process belongs to."""

END_WITHIN_SECONDS = 10.0
"""SIGKILL is not refused; this bounds the wait for the kernel to end many processes on a busy machine."""


def members(session: int, mark: str) -> frozenset[int]:
    """Return the living processes of `session` and those that carry `mark`; zombies are not living."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        # Processes end while we look, and those of other users cannot be read.
        with suppress(OSError):
            state, its_session = _state_and_session(folder)
            if state in "ZX":
                continue
            # Ray's process titles overwrite the environment: the mark alone finds too few.
            if its_session == session or wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    return frozenset(found)


def end_members(session: int, mark: str, *, spare: frozenset[int] = frozenset()) -> frozenset[int]:
    """Kill every member of the cluster except `spare`; return those that would not go."""
    deadline = time.monotonic() + END_WITHIN_SECONDS
    while remaining := members(session, mark) - spare:
        for pid in remaining:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return remaining
        time.sleep(0.05)
    return frozenset()


def _state_and_session(folder: Path) -> tuple[str, int]:
    """Read two fields of /proc/PID/stat; the process name before them may contain anything, `)` included."""
    fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[3])
