"""Reading through the node's cache: what is there is taken, what is missing is fetched once and kept for the others.

Every reader takes part in fetching: a chunk is fetched by whoever claims it first, the others go on to other chunks and
take this one when it lands. So there is no leader to wait for and none to lose.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Protocol

from loaders.safetensors.cache_content import Content, Piece, pieces
from loaders.safetensors.cache_entry import Entry, NoRoom
from loaders.safetensors.cache_store import Store
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.ahead import Touch, as_it_is, shifted
from loaders.safetensors.sources.interrupt import Interrupt

LOG = logging.getLogger(__name__)

FIRST_WAIT = 0.001
LONGEST_WAIT = 0.02
"""Seconds between two looks at a chunk that another is fetching: short against the time that a chunk takes."""

STANDS_IN_AFTER = 0.5
"""Seconds of waiting for a chunk after which it is looked whether who claims it is stopped: not right after it took it,
before it has shown a sign."""

PATIENCE = 60.0
"""Seconds after which a chunk that another claims is read past the cache, whatever it is that keeps the other."""

NEARLY_ALL = 0.95
"""A chunk is fetched whole if at least this share of it is wanted: partial loads must not fetch what nobody asked."""


SCRATCH_CHUNKS = 4
"""Chunks that may be fetched aside at a time because a read wants only a part: they are memory beyond the result's."""


class Filling(Protocol):
    """Someone of this node who fetches all chunks, or those that were asked for."""

    def goes_on(self) -> bool:
        """Tell whether missing chunks will come without the reader's doing."""

    @property
    def brought(self) -> int:
        """Bytes that this process brought to the node."""

    def close(self) -> None:
        """The reader needs no more."""


class Neighbours(Protocol):
    """Other nodes, as they are asked for parts of chunks."""

    def read(self, chunk: int, start: int, into: memoryview, interrupt: Interrupt) -> bool:
        """Fill `into` from a chunk that one of them has; False if none has it, or brings it in time."""

    def close(self) -> None:
        """The reader needs no more."""


class Peers(Protocol):
    """The others, as this node sees them."""

    def filling(self, entry: Entry, origin: Source, want: int | None) -> Filling:
        """Have chunks (a set of bits, `None` for all) fetched from peers and the origin together."""

    def neighbours(self, content: Content) -> Neighbours:
        """Return who can be asked for parts of chunks."""


class ReadThrough:
    """A source that is asked through the cache. Itself a source."""

    def __init__(self, store: Store, entry: Entry, origin: Source, peers: Peers | None = None) -> None:
        """Takes over the opened content and the origin, and closes both."""
        self.uri, self.size, self.version = origin.uri, origin.size, origin.version
        self.streams = origin.streams
        self.content: Content = entry.content
        self.fetched = 0
        self._store, self._entry, self._origin = store, entry, origin
        self._wanted: dict[int, int] = {}
        self._reading: set[Piece] = set()
        self._everything = (1 << entry.content.chunks) - 1
        self._reserved = self._everything if store.has_room(entry.content) else 0
        self._full = False
        self._peers = peers
        self._filling: Filling | None = None
        self._filled = 0
        self._expects = False
        self._neighbours: Neighbours | None = None
        self._lock = threading.Lock()
        self._scratch = threading.BoundedSemaphore(SCRATCH_CHUNKS)

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say which ranges (first and last byte + 1, none overlapping) will be read: their chunks can be kept.

        Room is reserved for them now, so this is for files whose header has been judged. What is read before is not
        kept.
        """
        for start, stop in ranges:
            for piece in pieces(start, stop - start, self.content.chunk_size):
                self._wanted[piece.chunk] = self._wanted.get(piece.chunk, 0) + piece.length
        if not self._full:
            self._reserve()
        if self._peers is not None and not self._expects:
            self._expects = True
            self._ask_peers(self._peers)

    def expect_from_peers(self) -> None:
        """Say that the origin is gone: what is read before anything is expected, a header, is asked of peers too."""
        if self._peers is not None:
            self._neighbours = self._peers.neighbours(self.content)

    def _ask_peers(self, peers: Peers) -> None:
        """Have chunks that are wanted (nearly) whole brought here; parts of others are asked for when they are read."""
        there = sum(1 << chunk for chunk in self._entry.present())
        wanted, whole = sum(1 << chunk for chunk in self._wanted), self._whole() if self.keeps else 0
        if whole == self._everything:
            if there != whole:
                self._filling, self._filled = peers.filling(self._entry, self._origin, None), whole
            return
        if whole & ~there:
            self._filling, self._filled = peers.filling(self._entry, self._origin, whole), whole
        if wanted & ~whole & ~there and self._neighbours is None:
            self._neighbours = peers.neighbours(self.content)

    @property
    def keeps(self) -> bool:
        """Whether what was expected is kept, as far as is known."""
        return bool(self._reserved) and not self._full

    def _whole(self) -> int:
        """The chunks that are wanted (nearly) whole; all of them where (nearly) everything is wanted."""
        if sum(self._wanted.values()) >= NEARLY_ALL * self.size:
            return self._everything
        return sum(1 << chunk for chunk in self._wanted if self._keeps_chunk(chunk))

    def _reserve(self) -> None:
        whole = self._whole()
        if not whole & ~self._reserved:
            return
        try:
            if self._store.reserve(self.content, whole):
                self._reserved |= whole
            else:
                self._keep_no_more("the node's cache has no room for it")
        except OSError as failing:
            self._keep_no_more(failing)

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        """Fill the buffer from the cache, and from the origin where the cache has nothing."""
        for piece in pieces(offset, len(buffer), self.content.chunk_size):
            interrupt.check()
            into, its_touch = buffer[piece.at : piece.at + piece.length], shifted(touch, piece.at)
            with self._first_to_read(piece) as first:
                if first:
                    self._read(piece, into, interrupt, its_touch)
                else:  # a read that took too long is being tried a second time: over another connection
                    self._fetch(piece.chunk, piece.start, into, interrupt, its_touch)

    @contextlib.contextmanager
    def _first_to_read(self, piece: Piece) -> Iterator[bool]:
        with self._lock:
            first = piece not in self._reading
            self._reading.add(piece)
        try:
            yield first
        finally:
            if first:
                with self._lock:
                    self._reading.discard(piece)

    def _read(self, piece: Piece, into: memoryview, interrupt: Interrupt, touch: Touch) -> None:
        waited, wait = 0.0, FIRST_WAIT
        while not self._entry.read(piece.chunk, piece.start, into, touch):
            if self._filling is not None and self._filled >> piece.chunk & 1 and self._filling.goes_on():
                interrupt.wait(wait)
                wait = min(LONGEST_WAIT, wait * 2)
                continue
            if not self._keeps(piece) or waited > PATIENCE:
                if self._neighbours is None or not self._from_neighbour(
                    self._neighbours, piece, into, interrupt, touch
                ):
                    self._fetch(piece.chunk, piece.start, into, interrupt, touch)
                return
            with self._entry.claim(piece.chunk, stand_in=waited > STANDS_IN_AFTER) as claimed:
                if claimed and self._fetch_and_keep(piece, into, interrupt, touch):
                    return
            if not claimed:
                interrupt.wait(wait)
                waited, wait = waited + wait, min(LONGEST_WAIT, wait * 2)

    def _keeps(self, piece: Piece) -> bool:
        return bool(self._reserved >> piece.chunk & 1) and self._keeps_chunk(piece.chunk, piece.length)

    def _keeps_chunk(self, chunk: int, wanted: int = 0) -> bool:
        return max(self._wanted.get(chunk, 0), wanted) >= NEARLY_ALL * self.content.length_of(chunk)

    def _fetch_and_keep(self, piece: Piece, into: memoryview, interrupt: Interrupt, touch: Touch) -> bool:
        """Fetch a claimed chunk; False if it landed between the look and the claim."""
        if self._entry.checksum(piece.chunk) is not None:
            return False
        length = self.content.length_of(piece.chunk)
        if len(into) == length:
            self._fetch(piece.chunk, 0, into, interrupt, touch)
            self._keep(piece.chunk, into)
            return True
        with self._scratch:
            whole = memoryview(bytearray(length))
            self._fetch(piece.chunk, 0, whole, interrupt)
            self._keep(piece.chunk, whole)
            touch(0, len(into))
            into[:] = whole[piece.start : piece.start + piece.length]
        return True

    def _from_neighbour(
        self, neighbours: Neighbours, piece: Piece, into: memoryview, interrupt: Interrupt, touch: Touch
    ) -> bool:
        touch(0, len(into))  # it is at most a chunk
        if not neighbours.read(piece.chunk, piece.start, into, interrupt):
            return False
        with self._lock:
            self.fetched += len(into)
        return True

    def _fetch(self, chunk: int, start: int, into: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        self._origin.read_into(chunk * self.content.chunk_size + start, into, interrupt, touch)
        with self._lock:
            self.fetched += len(into)

    def _keep(self, chunk: int, content: memoryview) -> None:
        """Keep a fetched chunk if there is room for it. The load goes on without: it has its bytes."""
        if self._full:
            return
        try:
            self._entry.write(chunk, content)
        except NoRoom as full:
            if not self._kept_after_all(chunk, content):
                self._keep_no_more(full)
        except OSError as failing:
            self._keep_no_more(failing)

    def _keep_no_more(self, why: Exception | str) -> None:
        self._full = True
        LOG.warning("%s; the rest of %s is loaded without keeping it", why, self.content.public_uri)

    def _kept_after_all(self, chunk: int, content: memoryview) -> bool:
        try:
            if not self._store.make_room(len(content), self.content):
                return False
            self._entry.write(chunk, content)
        except (NoRoom, OSError):
            return False
        return True

    @property
    def brought(self) -> int:
        """Bytes that this process brought to the node, from the origin or from peers."""
        return self.fetched + (self._filling.brought if self._filling is not None else 0)

    def close(self) -> None:
        """Give the content back to the cache and close the origin."""
        for peers in (self._filling, self._neighbours):
            if peers is not None:
                peers.close()
        unused = not self._reserved and not self._entry.present()
        self._entry.close()
        self._origin.close()
        if unused:  # it turned out to be no weights, or there was no room
            with contextlib.suppress(OSError):
                self._store.remove(self.content.key)
