"""Objects of S3, Google Cloud Storage, Azure and HTTPS servers, by way of obstore: it knows their credential chains."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from loaders.safetensors.errors import LoadError, SourceChanged, SourceFailed
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.streams import Streams

try:
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
    from obstore.store import from_url
except ImportError as missing:
    raise ImportError("object stores and https:// need obstore: pip install 'heliostat[loaders]'") from missing

FAILURES = (BaseError, OSError)
"""What obstore raises: its own tree, but Python's FileNotFoundError for what is not there."""
FINAL = (PreconditionError, FileNotFoundError, PermissionDeniedError, UnauthenticatedError)
MOST_TRIES = 8
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
FEW_STREAMS, MOST_STREAMS = 8, 32
PART_BYTES = 1024 * 1024
"""What is copied at a time; between two parts a read can be interrupted."""


def open_object(uri: str, region: str | None) -> ObjectFile:
    """Open one object; the store's own environment variables say how to reach it."""
    parts = urlsplit(uri)
    key = unquote(parts.path).lstrip("/")
    root = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
    if parts.scheme == "https":
        # A presigned URL's query belongs to the request; obstore appends the key to the store's own URL.
        folder, key = posixpath.split(parts.path)
        root = urlunsplit((parts.scheme, parts.netloc, folder, "", ""))
        if parts.query:
            raise SourceFailed(
                "a https URL with a query cannot be read in ranges here; use s3://, gs:// or az://", uri=uri
            )
    options = {"region": region} if region and parts.scheme in ("s3", "s3a") else {}
    try:
        return ObjectFile(uri, from_url(root, **options), key)
    except (BaseError, ValueError) as error:
        raise SourceFailed(f"the store cannot be opened: {error}", uri=uri) from error


class ObjectFile:
    """One object, pinned to the ETag it had when it was opened."""

    def __init__(self, uri: str, store: Any, key: str) -> None:  # obstore's stores have no common type
        """Ask for size and ETag."""
        self.uri = uri
        self._store = store
        self._key = key
        try:
            meta = obstore.head(store, key)
        except FAILURES as error:
            raise self._translated(error, None) from error
        self.size: int = meta["size"]
        self.version: str = meta["e_tag"] or str(meta["last_modified"])
        self._pin = {"if_match": meta["e_tag"]} if meta["e_tag"] and not meta["e_tag"].startswith("W/") else {}
        self.streams = Streams(first=FEW_STREAMS, most=MOST_STREAMS)

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt) -> None:
        """Fill the buffer; what broke is resumed where it broke."""
        done, tries = 0, 0
        while done < len(buffer):
            span = (offset + done, offset + len(buffer))
            interrupt.check()
            try:
                got = self._once(span, buffer[done:], interrupt)
                problem = "the answer ended early"
            except FAILURES as error:
                got, problem = 0, str(error)
                final = self._translated(error, span)
                if isinstance(error, FINAL):
                    raise final from error
            done, tries = done + got, 0 if got else tries + 1
            if tries == MOST_TRIES:
                raise SourceFailed(f"gave up after {tries} tries: {problem}", uri=self.uri, span=span)
            if not got and done < len(buffer):
                interrupt.wait(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tries - 1)))

    def _once(self, span: tuple[int, int], buffer: memoryview, interrupt: Interrupt) -> int:
        answer = obstore.get(self._store, self._key, options={"range": span, **self._pin})
        meta = answer.meta
        if meta["size"] != self.size or (meta["e_tag"] or str(meta["last_modified"])) != self.version:
            raise SourceChanged("the object was replaced while it was read", uri=self.uri, span=span)
        done = 0
        for part in answer.stream(min_chunk_size=PART_BYTES):
            interrupt.check()
            view = memoryview(part)
            if done + len(view) > len(buffer):
                raise SourceFailed("the store sent more than was asked for", uri=self.uri, span=span)
            buffer[done : done + len(view)] = view
            done += len(view)
        return done

    def _translated(self, error: Exception, span: tuple[int, int] | None) -> LoadError:
        if isinstance(error, PreconditionError):
            return SourceChanged("the object was replaced while it was read", uri=self.uri, span=span)
        kind = "has no such object" if isinstance(error, FileNotFoundError) else "does not give it"
        return SourceFailed(f"the store {kind}: {str(error).splitlines()[0]}", uri=self.uri, span=span)

    def close(self) -> None:
        """Nothing is held."""
