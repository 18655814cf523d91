"""Objects of S3, Google Cloud Storage, Azure and HTTPS servers, by way of obstore: it knows their credential chains."""

from __future__ import annotations

import posixpath
import re
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from loaders.safetensors.errors import LoadError, SourceChanged, SourceFailed, SourceMissing, SourceUnreachable, shown
from loaders.safetensors.sources.ahead import Ahead, Touch, as_it_is, shifted
from loaders.safetensors.sources.interrupt import Interrupt, waited
from loaders.safetensors.sources.retries import back_off
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
PASSING = re.compile(r"HTTP error|status code: (408|425|429|5[0-9]{2})\b")
"""obstore has no kind of its own for what does not answer, or not now; only its words tell."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
ONE_TRY = {"max_retries": 0, "retry_timeout": timedelta(seconds=30)}
"""Trying again is done here, where an interrupt is seen; obstore alone would go on for minutes."""
MOST_TRIES = 8
FEW_STREAMS, MOST_STREAMS = 8, 32
PART_BYTES = 1024 * 1024
"""What is copied at a time; between two parts a read can be interrupted."""


def open_object(uri: str, region: str | None, interrupt: Interrupt) -> ObjectFile:
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
        store = from_url(root, retry_config=ONE_TRY, **options)
    except (BaseError, ValueError) as error:
        raise SourceFailed(f"the store cannot be opened: {_said(error)}", uri=uri) from error
    return ObjectFile(uri, store, key, interrupt)


class ObjectFile:
    """One object, pinned to the ETag it had when it was opened."""

    def __init__(  # obstore's stores have no common type
        self, uri: str, store: Any, key: str, interrupt: Interrupt
    ) -> None:
        """Ask for size and ETag."""
        self.uri = uri
        self._store = store
        self._key = key
        meta = self._head(interrupt)
        self.size: int = meta["size"]
        self.version: str = meta["e_tag"] or str(meta["last_modified"])
        self._pin = {"if_match": meta["e_tag"]} if meta["e_tag"] and not meta["e_tag"].startswith("W/") else {}
        self.streams = Streams(first=FEW_STREAMS, most=MOST_STREAMS)

    def _head(self, interrupt: Interrupt) -> Any:
        for tries in range(1, MOST_TRIES + 1):
            try:
                return waited(lambda: obstore.head(self._store, self._key), interrupt)
            except FAILURES as error:
                failed = self._translated(error, None)
                if not isinstance(failed, SourceUnreachable) or tries == MOST_TRIES:
                    raise failed from error
            interrupt.wait(back_off(tries))
        raise AssertionError("the last try returns or raises")

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        """Fill the buffer; what broke is resumed where it broke."""
        done, tries = 0, 0
        while done < len(buffer):
            span = (offset + done, offset + len(buffer))
            interrupt.check()
            try:
                got = self._once(span, buffer[done:], interrupt, Ahead(shifted(touch, done), len(buffer) - done))
                failed: LoadError = SourceUnreachable("the answer ended early", uri=self.uri, span=span)
            except FAILURES as error:
                got, failed = 0, self._translated(error, span)
                if isinstance(error, FINAL):
                    raise failed from error
            done, tries = done + got, 0 if got else tries + 1
            if tries == MOST_TRIES:
                raise type(failed)(f"gave up after {tries} tries: {failed.problem}", uri=self.uri, span=span)
            if not got and done < len(buffer):
                interrupt.wait(back_off(tries))

    def _once(self, span: tuple[int, int], buffer: memoryview, interrupt: Interrupt, ahead: Ahead) -> int:
        asked: Any = {"range": span, **self._pin}
        answer = waited(lambda: obstore.get(self._store, self._key, options=asked), interrupt)
        meta = answer.meta
        if meta["size"] != self.size or (meta["e_tag"] or str(meta["last_modified"])) != self.version:
            raise SourceChanged("the object was replaced while it was read", uri=self.uri, span=span)
        done = 0
        parts = iter(answer.stream(min_chunk_size=PART_BYTES))
        while True:
            interrupt.check()
            try:
                part = next(parts)
            except StopIteration:
                return done
            except FAILURES:
                if done:
                    return done  # the next request goes on from here, and says what is wrong if it still is
                raise
            view = memoryview(part)
            if done + len(view) > len(buffer):
                raise SourceFailed("the store sent more than was asked for", uri=self.uri, span=span)
            ahead.until(done + len(view))
            buffer[done : done + len(view)] = view
            done += len(view)

    def _translated(self, error: Exception, span: tuple[int, int] | None) -> LoadError:
        if isinstance(error, PreconditionError):
            return SourceChanged("the object was replaced while it was read", uri=self.uri, span=span)
        said = _said(error)
        if isinstance(error, FileNotFoundError):
            return SourceMissing(f"the store has no such object: {said}", uri=self.uri, span=span)
        problem = f"the store does not give it: {said}"
        if isinstance(error, PermissionDeniedError):
            return SourceMissing(problem, uri=self.uri, span=span)
        if isinstance(error, BaseError) and PASSING.search(said) and not isinstance(error, FINAL):
            return SourceUnreachable(problem, uri=self.uri, span=span)
        return SourceFailed(problem, uri=self.uri, span=span)

    def close(self) -> None:
        """Nothing is held."""


def _said(error: Exception) -> str:
    """Return what obstore says, but for what addresses in it carry: passwords, signatures."""
    text = next(iter(str(error).splitlines()), type(error).__name__)
    return ADDRESS.sub(lambda found: shown(found.group()), text)
