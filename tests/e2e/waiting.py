"""Waiting for conditions, never for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

INTERVAL = 0.1


def wait_for(
    condition: Callable[[], Found],
    within: float,
    what: str,
    *,
    shows: Callable[[], object] = lambda: "",
    interval: float = INTERVAL,
) -> Found:
    """Return the condition's first true value; fail after `within` seconds, with what `shows` returns."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}\n{shows()}")
        time.sleep(interval)
