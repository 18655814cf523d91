"""How a blocking read is broken off from another thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from loaders.safetensors.errors import LoadError

Found = TypeVar("Found")


class Interrupt:
    """Fires once, with the error that explains why. Reads that block register what unblocks them."""

    def __init__(self) -> None:
        """Not fired."""
        self._lock = threading.Lock()
        self._fired = threading.Event()
        self._breakers: set[Callable[[], None]] = set()
        self.error: LoadError | None = None

    @property
    def fired(self) -> bool:
        """Tell whether it is over."""
        return self._fired.is_set()

    def fire(self, error: LoadError) -> None:
        """Break off every read that is going on, and every later one. The first error stays."""
        with self._lock:
            if self.error is not None:
                return
            self.error = error
            self._fired.set()
            breakers = tuple(self._breakers)
        for breaker in breakers:
            breaker()

    def check(self) -> None:
        """Raise the error if it has fired."""
        if self.error is not None:
            raise self.error

    def wait(self, seconds: float) -> None:
        """Sleep, but not past a firing, which raises."""
        self._fired.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def breaking(self, breaker: Callable[[], None]) -> Iterator[None]:
        """Within the block a firing calls `breaker`, from another thread; it must not block."""
        with self._lock:
            self.check()
            self._breakers.add(breaker)
        try:
            yield
        finally:
            with self._lock:
                self._breakers.discard(breaker)

    @contextlib.contextmanager
    def child(self) -> Iterator[Interrupt]:
        """An interrupt of its own that also fires when this one does."""
        inner = Interrupt()

        def pass_on() -> None:
            if self.error is not None:
                inner.fire(self.error)

        with self.breaking(pass_on):
            yield inner


def waited(call: Callable[[], Found], interrupt: Interrupt) -> Found:
    """Return what a call returns, or raise when the interrupt fires: the call itself cannot be broken off.

    It goes on in a thread of its own until it ends by itself, so it must write to no memory of ours.
    """
    ended: queue.SimpleQueue[tuple[Found | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put((call(), None))
        except BaseException as error:
            ended.put((None, error))

    with interrupt.breaking(lambda: ended.put((None, interrupt.error))):
        threading.Thread(target=run, name="weights-ask", daemon=True).start()
        found, error = ended.get()
    if error is not None:
        raise error
    return found  # type: ignore[return-value]  # without an error it is what the call returned
