"""Memory of the host: blocks for results, in huge pages, and how much of it there is."""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

HUGE_PAGE = 2 * 1024 * 1024


def host_block(size: int) -> memoryview:
    """Return writable memory that lives as long as something refers to it.

    First touch in 4 KiB pages is slower than reading the file; huge pages make it three times as fast. The memory is
    touched by the threads that read into it, each its own part.
    """
    if size < HUGE_PAGE:
        return memoryview(bytearray(size))
    block = mmap.mmap(-1, -(-size // HUGE_PAGE) * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages is slower, not wrong
        block.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(block)[:size]


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
