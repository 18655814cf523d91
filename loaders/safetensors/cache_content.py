"""What the node's cache holds, as values: which content, in which chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

CHUNK_SIZE = 8 << 20
"""Bytes that are fetched, checked and shared as one. Smaller ones cost a request each, larger ones make peers wait."""

SMALLEST_CHUNK_SIZE = 1 << 20
CHUNKS_WORTH_HAVING = 16
"""A small file is cut finer, so that it too is fetched by several readers and from several peers."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """One version of one object. The ETag is what makes it one version; without one nothing can be shared."""

    uri: str
    etag: str
    size: int

    @property
    def public_uri(self) -> str:
        """The URI without its query and user part, which may hold signatures and passwords and may change daily."""
        parts = urlsplit(self.uri)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def key(self) -> str:
        """Names the content on every node alike."""
        return hashlib.sha256(f"{self.public_uri}\0{self.etag}\0{self.size}".encode()).hexdigest()[:32]

    @property
    def chunk_size(self) -> int:
        """Bytes of a chunk of this content; follows from its size, so that every node cuts it alike."""
        size = CHUNK_SIZE
        while size > SMALLEST_CHUNK_SIZE and self.size < size * CHUNKS_WORTH_HAVING:
            size //= 2
        return size

    @property
    def chunks(self) -> int:
        """The number of chunks; the last one may be shorter."""
        return -(-self.size // self.chunk_size)

    def length_of(self, chunk: int) -> int:
        """Bytes of one chunk."""
        return min(self.chunk_size, self.size - chunk * self.chunk_size)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of a range that lies in one chunk: `start` counts from the chunk's beginning, `at` from the range's."""

    chunk: int
    start: int
    at: int
    length: int


def pieces(offset: int, length: int, chunk_size: int) -> Iterator[Piece]:
    """Cut a range of the file at the borders of chunks."""
    at = 0
    while at < length:
        chunk, start = divmod(offset + at, chunk_size)
        step = min(chunk_size - start, length - at)
        yield Piece(chunk=chunk, start=start, at=at, length=step)
        at += step
