"""Memory of the host: blocks for results, in huge pages where they are fast, and how much of it there is."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
import time
from pathlib import Path

PAGE = 4096
HUGE_PAGE = 2 * 1024 * 1024
SLOWEST_HUGE_PAGE = 0.002
"""Seconds of processor time. Clearing a huge page takes a tenth of that. In a virtual machine that gives free memory
back to its host, huge pages are just what it gave back, and the host takes milliseconds for each: small pages, used a
moment ago, are faster then.
"""
_POPULATE_WRITE = 23
_NO_HUGE_PAGES = 15

_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_huge_pages_are_slow = threading.Event()
_huge_pages_were_tried = threading.Event()
_trial = threading.Lock()


class HostBlock:
    """Writable memory that lives as long as something refers to it."""

    def __init__(self, size: int) -> None:
        """Take address space; memory comes when it is touched."""
        self._small = _huge_pages_are_slow.is_set() or size < HUGE_PAGE
        self._mapping = mmap.mmap(-1, max(PAGE, -(-size // PAGE) * PAGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory = memoryview(self._mapping)[:size]
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        if not self._small:
            with contextlib.suppress(OSError):  # a kernel without huge pages is slower, not wrong
                self._mapping.madvise(mmap.MADV_HUGEPAGE)

    def touch(self, start: int, stop: int) -> None:
        """Get the memory of a part that is about to be written, by the thread that will write it.

        As soon as a huge page turns out to be slow, this block and all later ones get small ones. Asked for together,
        small pages cost an eighth less than when each is missed in the middle of a read.
        """
        self.try_huge_pages(start)
        self._get(start, stop)

    def try_huge_pages(self, at: int = 0) -> None:
        """Find out, once in this process, how fast they are. Whoever writes without touching calls this before."""
        if self._small or _huge_pages_were_tried.is_set():
            return
        with _trial:  # the others wait: else each reader would find out by itself, all at once
            if not _huge_pages_were_tried.is_set():
                self._get(at, min(len(self.memory), at + PAGE))
                _huge_pages_were_tried.set()

    def _get(self, start: int, stop: int) -> None:
        at = start // PAGE * PAGE
        while at < stop:
            if not self._small and _huge_pages_are_slow.is_set():
                self._without_huge_pages()
            step = min(stop, at + HUGE_PAGE)
            before = time.thread_time()
            # Python's own madvise would keep the interpreter's lock for as long as clearing takes.
            if _madvise(self._address + at, -(-(step - at) // PAGE) * PAGE, _POPULATE_WRITE):
                return  # Before Linux 5.14, or with no memory left: it comes, or does not, when it is written.
            if not self._small and time.thread_time() - before > SLOWEST_HUGE_PAGE:
                _huge_pages_are_slow.set()
            at = step

    def _without_huge_pages(self) -> None:
        self._small = True
        _madvise(self._address, len(self._mapping), _NO_HUGE_PAGES)


def available() -> int | None:
    """Return how many bytes this process may still take by the machine's and its control group's account."""
    limits = [_machine(), _control_group()]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
    return found["MemAvailable"] + found.get("SwapFree", 0) if "MemAvailable" in found else None


def _control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Read version 2's files; page cache counts as free, for the kernel gives it back."""
    try:
        most = (root / "memory.max").read_text().strip()
        current = int((root / "memory.current").read_text())
        parts = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if most == "max":
        return None
    return max(0, int(most) - current + int(parts.get("active_file", 0)) + int(parts.get("inactive_file", 0)))
