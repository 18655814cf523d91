"""Memory that is there just before bytes are written to it: asked for in steps, instead of missed page by page."""

from __future__ import annotations

import threading
from collections.abc import Callable

from loaders.safetensors.sources.streams import cores

Touch = Callable[[int, int], None]
"""Gets the memory of a part of a buffer: its first byte, and its last + 1."""

STEP = 1024 * 1024
"""Bytes. What was just cleared is then still in the processor's cache when it is written; an answer that has come waits
for no longer than that; and so do threads that begin, which change the process's memory map.
"""
LOOKS_AFTER = 5.0
"""Milliseconds after which it is looked again whether one of those who get memory meanwhile is done."""

_meanwhile = threading.BoundedSemaphore(max(1, cores() - 1))
"""So many at a time get memory while they wait: on one core, those who are yet to send their requests do that."""


def as_it_is(_start: int, _stop: int) -> None:
    """Do nothing: the buffer's memory is there, or comes as it is written."""


def shifted(touch: Touch, by: int) -> Touch:
    """Return what gets the memory of a part of the buffer that begins so many bytes into it."""
    return touch if touch is as_it_is else lambda start, stop: touch(by + start, by + stop)


class Ahead:
    """Gets a buffer's memory from its beginning on, a step at a time. For one thread."""

    def __init__(self, touch: Touch, size: int) -> None:
        """Nothing yet, of `size` bytes."""
        self._touch = touch
        self._size = size
        self._there = 0 if touch is not as_it_is else size

    def meanwhile(self, has_come: Callable[[float], object]) -> None:
        """Use the time until something has come. `has_come` waits for it up to so many milliseconds."""
        pause = 0.0
        while self._there < self._size and not has_come(pause):
            pause = LOOKS_AFTER
            if _meanwhile.acquire(blocking=False):
                try:
                    self._step()
                finally:
                    _meanwhile.release()
                pause = 0.0

    def until(self, stop: int) -> int:
        """Get at least this much; return up to where there is memory."""
        while self._there < stop and self._step():
            pass
        return self._there

    def _step(self) -> bool:
        stop = min(self._size, self._there + STEP)
        if stop > self._there:
            self._touch(self._there, stop)
        self._there = stop
        return stop < self._size
