"""Where bytes come from: a file, an HTTP server, an object store, the node's cache, a peer."""

from __future__ import annotations

from typing import Protocol

from loaders.safetensors.sources.ahead import Touch, as_it_is
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.streams import Streams


class Source(Protocol):
    """One object, pinned: every read gives bytes of the version that was opened, or raises.

    Safe to read from many threads at once.
    """

    @property
    def uri(self) -> str:
        """The object, as the user named it; errors show it without secrets."""

    @property
    def size(self) -> int:
        """Bytes of the object."""

    @property
    def version(self) -> str:
        """What pins it: an ETag, or a file's identity and times; empty if the origin gives nothing."""

    @property
    def streams(self) -> Streams:
        """How many reads at a time are worth it."""

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        """Fill the whole buffer from `offset`; raise a `LoadError` if that cannot be done.

        `touch` is called for parts of the buffer that are about to be written, by the thread that writes them: when
        their bytes are there, or while it waits for bytes that it has asked for.

        After it returned or raised, nothing writes to the buffer any more. A fired interrupt makes a remote read return
        at once.
        """

    def close(self) -> None:
        """Give back what it holds; reads in progress fail."""
