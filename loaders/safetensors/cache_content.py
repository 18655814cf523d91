"""What the node's cache holds, as values: which content, in which chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

CHUNK_SIZE = 8 << 20
"""Bytes that are fetched, checked and shared as one. Smaller ones cost a request each, larger ones make peers wait."""


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
    def chunks(self) -> int:
        """The number of chunks; the last one may be shorter."""
        return -(-self.size // CHUNK_SIZE)

    def length_of(self, chunk: int) -> int:
        """Bytes of one chunk."""
        return min(CHUNK_SIZE, self.size - chunk * CHUNK_SIZE)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of a range that lies in one chunk: `start` counts from the chunk's beginning, `at` from the range's."""

    chunk: int
    start: int
    at: int
    length: int


def pieces(offset: int, length: int) -> Iterator[Piece]:
    """Cut a range of the file at the borders of chunks."""
    at = 0
    while at < length:
        chunk, start = divmod(offset + at, CHUNK_SIZE)
        step = min(CHUNK_SIZE - start, length - at)
        yield Piece(chunk=chunk, start=start, at=at, length=step)
        at += step
