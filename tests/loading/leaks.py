"""What a process holds beside its memory: files and sockets, and threads of Python's and of libraries."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping

SETTLED_WITHIN = 5.0
"""Seconds: the last threads of a load may be seen for a moment after it."""


def held() -> dict[str, int]:
    """Return how many there are of each."""
    gc.collect()
    return {"descriptors": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task"))}


def more_than(before: Mapping[str, int]) -> dict[str, int]:
    """Return of what there is more than before, and stays so."""
    deadline = time.monotonic() + SETTLED_WITHIN
    while (more := {name: count for name, count in held().items() if count > before[name]}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    return more
