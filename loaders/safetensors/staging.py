"""The ring between a source and a device: a few slots of pinned host memory, each used again and again.

A slot is free, then reading (a thread fills it), then copying (the device takes from it until its event), then free.
Pinning is slow, so there is one small ring per process, made while the first header is on its way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from loaders.safetensors.sources.interrupt import Interrupt

SLOT_BYTES = 8 * 1024 * 1024 + 256
"""A chunk, and room to place it congruent with the file."""
SLOTS = 24
LOOKS_EVERY = 0.05
"""Seconds until a thread that waits for a slot sees that the load was broken off."""


class Event(Protocol):
    """A point in the device's queue of copies."""

    def done(self) -> bool:
        """Tell whether the device is past it."""

    def wait(self) -> None:
        """Block until the device is past it."""


class Ring:
    """Hands out slots; a slot comes back with the event after which the device needs it no more."""

    def __init__(self, slots: Sequence[memoryview]) -> None:
        """All slots are free."""
        self._free = deque(range(len(slots)))
        self._copying: deque[tuple[int, Event]] = deque()
        self._slots = slots
        self._changed = threading.Condition()

    @property
    def free(self) -> int:
        """How many slots nobody holds and no copy needs."""
        with self._changed:
            self._reap()
            return len(self._free)

    def slot(self, number: int) -> memoryview:
        """Return a slot's memory."""
        return self._slots[number]

    def take(self, interrupt: Interrupt) -> int:
        """Return a free slot's number; wait for the oldest copy if there is none. A fired interrupt raises."""
        while True:
            interrupt.check()
            with self._changed:
                self._reap()
                if self._free:
                    return self._free.popleft()
                oldest = self._copying.popleft() if self._copying else None
                if oldest is None:
                    self._changed.wait(LOOKS_EVERY)
                    continue
            number, event = oldest
            try:
                event.wait()
            except BaseException:
                # The copy may still be reading: the slot goes back to where a later look finds out.
                self._return(number, event)
                raise
            return number

    def give_back(self, number: int, event: Event | None) -> None:
        """Return a slot; `event` is the end of the copy from it, `None` if nothing was copied."""
        self._return(number, event)

    def drain(self) -> None:
        """Return when no copy is going on."""
        while True:
            with self._changed:
                if not self._copying:
                    return
                number, event = self._copying.popleft()
            event.wait()
            self._return(number, None)

    def _return(self, number: int, event: Event | None) -> None:
        with self._changed:
            if event is None:
                self._free.append(number)
            else:
                self._copying.append((number, event))
            self._changed.notify()

    def _reap(self) -> None:
        """Copies end in the order they began, so the first one that is not done ends the look."""
        while self._copying and self._copying[0][1].done():
            self._free.append(self._copying.popleft()[0])
