"""Waiting for conditions, or for one to go on."""

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


def holds_for(
    condition: Callable[[], bool], seconds: float, what: str, *, shows: Callable[[], object] = lambda: ""
) -> None:
    """Fail as soon as the condition does not hold any more, within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not condition():
            raise AssertionError(f"not for {seconds:g} s: {what}\n{shows()}")
        time.sleep(1)
