"""A process id is reused by the kernel; with the time at which its process started it is not."""

from __future__ import annotations

from pathlib import Path


def start_of(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name before the last bracket may contain anything, brackets included.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
