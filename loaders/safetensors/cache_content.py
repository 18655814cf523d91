"""What the node's cache holds, as values: which content, in which chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit, urlunsplit

CHUNK_SIZE = 8 << 20
"""Bytes that are fetched, checked and shared as one. Smaller ones cost a request each, larger ones make peers wait."""

SMALLEST_CHUNK_SIZE = 1 << 20
CHUNKS_WORTH_HAVING = 16
"""A small file is cut finer, so that it too is fetched by several readers and from several peers."""


SIGNATURE_PREFIXES = ("x-amz-", "x-goog-")
SIGNED_WITH = {
    "signature": frozenset(["signature", "expires", "awsaccesskeyid", "googleaccessid", "policy", "key-pair-id"]),
    "sig": frozenset(
        ["sig", "se", "sp", "sv", "sr", "st", "spr", "sip", "ss", "srt", "sks", "skt", "ske", "skoid", "sktid", "skv"]
    ),
}
"""Parameters, in lower case, that say who may read and until when, not what: every link has others. They count as that
beside the signature that they belong to; S3, Cloud Storage and CloudFront use the first kind, Azure the second."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """One version of one object. The ETag is what makes it one version; without one nothing can be shared.

    It is written down and sent to other nodes, so it never holds the query or the user part of a URI: what of the query
    chooses the object is in `variant`, as a digest.
    """

    uri: str
    etag: str
    size: int
    variant: str = ""

    def __post_init__(self) -> None:
        """Take out of the URI what nobody else may see."""
        parts = urlsplit(self.uri)
        if parts.query or parts.fragment:
            object.__setattr__(self, "variant", _variant(parts.query, parts.fragment))
        public = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        object.__setattr__(self, "uri", public)

    @property
    def public_uri(self) -> str:
        """The URI without its query and user part, which may hold signatures and passwords and may change daily."""
        return self.uri

    def same_object(self, other: Content) -> bool:
        """Tell whether it is a version of the same object."""
        return (self.uri, self.variant) == (other.uri, other.variant)

    @property
    def key(self) -> str:
        """Names the content on every node alike."""
        named = "\0".join([self.uri, self.etag, str(self.size), *([self.variant] if self.variant else [])])
        return hashlib.sha256(named.encode()).hexdigest()[:32]

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


def _variant(query: str, fragment: str) -> str:
    """Digest what is no signature; empty where there is nothing else."""
    pairs = parse_qsl(query, keep_blank_values=True)
    signatures = [SIGNED_WITH[name.lower()] for name, _ in pairs if name.lower() in SIGNED_WITH]
    signing = frozenset().union(*signatures)
    kept = [pair for pair in pairs if not pair[0].lower().startswith(SIGNATURE_PREFIXES)]
    kept = [pair for pair in kept if pair[0].lower() not in signing]
    return hashlib.sha256(repr((kept, fragment)).encode()).hexdigest()[:32] if kept or fragment else ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of a range that lies in one chunk: `start` counts from the chunk's beginning, `at` from the range's."""

    chunk: int
    start: int
    at: int
    length: int


def bits(chunks: int) -> Iterator[int]:
    """The chunks of a set, lowest first."""
    while chunks:
        lowest = chunks & -chunks
        yield lowest.bit_length() - 1
        chunks ^= lowest


def pieces(offset: int, length: int, chunk_size: int) -> Iterator[Piece]:
    """Cut a range of the file at the borders of chunks."""
    at = 0
    while at < length:
        chunk, start = divmod(offset + at, chunk_size)
        step = min(chunk_size - start, length - at)
        yield Piece(chunk=chunk, start=start, at=at, length=step)
        at += step
