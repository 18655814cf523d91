"""Reading through the node's cache: what is there is taken, what is missing is fetched once and kept for the others.

Every reader takes part in fetching: a chunk is fetched by whoever claims it first, the others go on to other chunks and
take this one when it lands. So there is no leader to wait for and none to lose.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from loaders.safetensors.cache_content import Content, Piece, pieces
from loaders.safetensors.cache_entry import Entry, NoRoom
from loaders.safetensors.cache_store import Store

LOG = logging.getLogger(__name__)

FIRST_WAIT = 0.001
LONGEST_WAIT = 0.02
"""Seconds between two looks at a chunk that another is fetching: short against the time that a chunk takes."""

PATIENCE = 60.0
"""Seconds after which a chunk that another claims is read past the cache: a stopped process holds its claims."""

NEARLY_ALL = 0.95
"""A chunk is fetched whole if at least this share of it is wanted: partial loads must not fetch what nobody asked."""


class Origin(Protocol):
    """Where missing bytes come from."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from this offset of the file on, or raise."""


class ReadThrough:
    """One content, read through the cache. Used from many threads."""

    def __init__(
        self,
        store: Store,
        entry: Entry,
        origin: Origin,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called while waiting for others, and raises when the load is cancelled or out of time."""
        self.content: Content = entry.content
        self.fetched = 0
        self._store, self._entry, self._origin, self._check = store, entry, origin, check
        self._wanted: dict[int, int] = {}
        self._full = False
        self._lock = threading.Lock()

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say which ranges (offset and length, none overlapping) will be read, so that their chunks can be kept."""
        for offset, length in ranges:
            for piece in pieces(offset, length, self.content.chunk_size):
                self._wanted[piece.chunk] = self._wanted.get(piece.chunk, 0) + piece.length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from the cache, and from the origin where the cache has nothing."""
        for piece in pieces(offset, len(buffer), self.content.chunk_size):
            self._read(piece, buffer[piece.at : piece.at + piece.length])

    def _read(self, piece: Piece, into: memoryview) -> None:
        waited, wait = 0.0, FIRST_WAIT
        while not self._entry.read(piece.chunk, piece.start, into):
            if not self._keeps(piece) or waited > PATIENCE:
                self._fetch(piece.chunk, piece.start, into)
                return
            with self._entry.claim(piece.chunk) as claimed:
                if claimed and self._fetch_and_keep(piece, into):
                    return
            if not claimed:
                self._check()
                time.sleep(wait)
                waited, wait = waited + wait, min(LONGEST_WAIT, wait * 2)

    def _keeps(self, piece: Piece) -> bool:
        wanted = max(self._wanted.get(piece.chunk, 0), piece.length)
        return wanted >= NEARLY_ALL * self.content.length_of(piece.chunk)

    def _fetch_and_keep(self, piece: Piece, into: memoryview) -> bool:
        """Fetch a claimed chunk; False if it landed between the look and the claim."""
        if self._entry.checksum(piece.chunk) is not None:
            return False
        length = self.content.length_of(piece.chunk)
        whole = into if len(into) == length else memoryview(bytearray(length))
        self._fetch(piece.chunk, 0, whole)
        self._keep(piece.chunk, whole)
        if whole is not into:
            into[:] = whole[piece.start : piece.start + piece.length]
        return True

    def _fetch(self, chunk: int, start: int, into: memoryview) -> None:
        offset = chunk * self.content.chunk_size + start
        self._origin.read_into(offset, into)
        with self._lock:
            self.fetched += len(into)

    def _keep(self, chunk: int, content: memoryview) -> None:
        """Keep a fetched chunk if there is room for it. The load goes on without: it has its bytes."""
        if self._full:
            return
        try:
            self._entry.write(chunk, content)
        except NoRoom as full:
            if self._store.make_room(len(content), self.content) and self._kept_after_all(chunk, content):
                return
            self._full = True
            LOG.warning("%s; the rest of %s is loaded without keeping it", full, self.content.public_uri)

    def _kept_after_all(self, chunk: int, content: memoryview) -> bool:
        try:
            self._entry.write(chunk, content)
        except NoRoom:
            return False
        return True

    def close(self) -> None:
        """Give the content back to the cache."""
        self._entry.close()
