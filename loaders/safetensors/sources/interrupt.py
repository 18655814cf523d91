"""How a blocking read is broken off from another thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from loaders.safetensors.errors import LoadError


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
