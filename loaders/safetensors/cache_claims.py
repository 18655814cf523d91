"""Who fetches which chunk: one byte-range lock per chunk, let go by the kernel when its holder dies.

Open-file-description locks (Linux) bind to one opened file, so that two loads in one process exclude each other just as
two processes do. A lock file needs no cleaning up after a crash and cannot be stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` on 64-bit Linux: type, whence, start, length, pid (0 for these locks)."""


def lock_byte(descriptor: int, byte: int, kind: int) -> None:
    """Lock or unlock one byte of the file without waiting; raise `OSError` where another holds it."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


class Claims:
    """The claims of one opened content; used from many threads."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._process = os.getpid()
        self._held: set[int] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def attempt(self, chunk: int) -> Iterator[bool]:
        """Try to be the one who fetches this chunk; tells whether it succeeded, and lets go at the end."""
        if not self._take(chunk):
            yield False
            return
        try:
            yield True
        finally:
            self._let_go(chunk)

    def _take(self, chunk: int) -> bool:
        with self._lock:
            if chunk in self._held or self._descriptor < 0:
                return False
            try:
                lock_byte(self._descriptor, chunk, fcntl.F_WRLCK)
            except (BlockingIOError, PermissionError):
                return False
            self._held.add(chunk)
            return True

    def _let_go(self, chunk: int) -> None:
        with self._lock:
            self._held.discard(chunk)
            if self._descriptor >= 0:  # a closed file has let go already
                lock_byte(self._descriptor, chunk, fcntl.F_UNLCK)

    def close(self) -> None:
        """Let go of everything, also where a child process that was forked meanwhile still has the file open."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor < 0:
                return
            if self._process == os.getpid():
                for chunk in self._held:
                    lock_byte(descriptor, chunk, fcntl.F_UNLCK)
            os.close(descriptor)
