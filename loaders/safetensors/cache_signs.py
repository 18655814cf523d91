"""Signs of life of those who fetch for a node: a process that is stopped keeps its locks, and others would wait for it.

A stopped process (SIGSTOP, a frozen container, a debugger) looks to the kernel's locks as one that works. So who holds
one writes, once a second, what the time is. Signs decide who fetches, never what is trusted: a chunk is what its record
says, whoever writes it, and two who write the same chunk write the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

SIGN = struct.Struct("<Q")
"""Milliseconds of the clock that all processes of a machine share, and that stands still while it is suspended."""

EVERY = 1.0
"""Seconds between two signs."""

STOPPED = 5.0
"""Seconds without a sign after which somebody counts as stopped. One that only holds the interpreter for so long is
overtaken as well: that costs a chunk that is fetched twice."""


class Signs:
    """A file with a place for each thing that can be held. Used from many threads."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._shown: set[int] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def showing(self, place: int) -> Iterator[None]:
        """Show within the block that who holds this is alive."""
        with self._changed:
            self._shown.add(place)
            self._write(place)
            if self._thread is None:
                self._thread = threading.Thread(target=self._go_on, name="weights-signs", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._shown.discard(place)

    def _go_on(self) -> None:
        with self._changed:
            while self._shown and self._descriptor >= 0:
                for place in self._shown:
                    self._write(place)
                self._changed.wait(EVERY)
            self._thread = None

    def _write(self, place: int) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):  # on a full disk: others then wait for as long as without signs
                os.pwrite(self._descriptor, SIGN.pack(int(time.monotonic() * 1000)), place * SIGN.size)

    def stopped(self, place: int) -> bool:
        """Tell whether who holds this has shown itself, and does so no more.

        Right after something was taken its place may still show its last holder.
        """
        with self._changed:
            try:
                sign = os.pread(self._descriptor, SIGN.size, place * SIGN.size) if self._descriptor >= 0 else b""
            except OSError:
                return False
        shown = int.from_bytes(sign, "little")
        return 0 < shown < (time.monotonic() - STOPPED) * 1000

    def close(self) -> None:
        """Show nothing more."""
        with self._changed:
            descriptor, self._descriptor = self._descriptor, -1
            self._changed.notify_all()
        if descriptor >= 0:
            os.close(descriptor)
