"""Who fetches which chunk: one byte-range lock per chunk, let go by the kernel when its holder dies.

A second lock per chunk is for whoever stands in for a holder that is stopped, so that only one does.

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

from loaders.safetensors.cache_signs import Signs

FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` on 64-bit Linux: type, whence, start, length, pid (0 for these locks)."""


def lock_byte(descriptor: int, byte: int, kind: int) -> None:
    """Lock or unlock one byte of the file without waiting; raise `OSError` where another holds it."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


class Claims:
    """The claims of one opened content of so many chunks; used from many threads."""

    def __init__(self, path: Path, chunks: int, signs: Signs) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._chunks, self._signs = chunks, signs
        self._process = os.getpid()
        self._held: set[int] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def attempt(self, chunk: int, *, stand_in: bool = False) -> Iterator[bool]:
        """Try to be the one who fetches this chunk, or stands in for one who is stopped; tells whether it succeeded.

        It lets go at the end.
        """
        place = chunk
        taken = self._take(place)
        if not taken and stand_in and self._signs.stopped(place):
            place = chunk + self._chunks
            taken = self._take(place)
        if not taken:
            yield False
            return
        try:
            with self._signs.showing(place):
                yield True
        finally:
            self._let_go(place)

    def _take(self, place: int) -> bool:
        with self._lock:
            if place in self._held or self._descriptor < 0:
                return False
            try:
                lock_byte(self._descriptor, place, fcntl.F_WRLCK)
            except (BlockingIOError, PermissionError):
                return False
            self._held.add(place)
            return True

    def _let_go(self, place: int) -> None:
        with self._lock:
            self._held.discard(place)
            if self._descriptor >= 0:  # a closed file has let go already
                lock_byte(self._descriptor, place, fcntl.F_UNLCK)

    def close(self) -> None:
        """Let go of everything, also where a child process that was forked meanwhile still has the file open."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor < 0:
                return
            if self._process == os.getpid():
                for place in self._held:
                    lock_byte(descriptor, place, fcntl.F_UNLCK)
            os.close(descriptor)
