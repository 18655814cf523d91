"""The node's cache as loads use it: between the origin and the reader, and in the origin's place when it is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable

from loaders.safetensors.cache_content import Content
from loaders.safetensors.cache_entry import Entry
from loaders.safetensors.cache_read import ReadThrough
from loaders.safetensors.cache_settings import cache_settings
from loaders.safetensors.cache_store import Store
from loaders.safetensors.errors import SourceUnreachable
from loaders.safetensors.peers import this_node
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.ahead import Touch, as_it_is
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.streams import Streams, cores

LOG = logging.getLogger(__name__)


LARGEST = 1 << 44
"""Bytes. A larger object is a lie: nothing is made of it, not even a sparse file with a record for each chunk."""


class Gone:
    """Stands in for an origin that cannot be reached while the cache has all of its bytes."""

    def __init__(self, uri: str, content: Content, error: SourceUnreachable) -> None:
        """`error` is what a read says that the cache cannot answer after all."""
        self.uri, self.size, self.version = uri, content.size, content.etag
        self.streams = Streams(first=max(2, cores()), most=16)
        self._error = error

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        """Raise: there is nobody to ask."""
        raise self._error

    def close(self) -> None:
        """Nothing is held."""


def node_store(interrupt: Interrupt) -> Store | None:
    """Open this node's cache; `None`, with a warning, where its folder cannot be used."""
    try:
        settings = cache_settings()
        return Store(settings.folder, settings.cap, interrupt.wait)
    except (OSError, RuntimeError) as error:  # the latter: nobody knows this user's home
        LOG.warning("loading without the node's cache: %s", error)
        return None


def through_cache(uri: str, open_origin: Callable[[], Source], interrupt: Interrupt) -> Source:
    """Return a source that keeps what it reads for the other processes of this node.

    What has no version cannot be shared: nobody could tell an old byte from a new one.
    """
    store = node_store(interrupt)
    if store is None:
        return open_origin()
    try:
        origin = open_origin()
    except SourceUnreachable as error:
        return _from_cache_alone(store, uri, error)
    if not origin.version or origin.version.startswith("W/") or not origin.size:
        return origin
    content = Content(uri=uri, etag=origin.version, size=origin.size)
    if origin.size > LARGEST:
        return origin
    try:
        entry = store.open(content, 0)  # room is taken once the header is judged: nobody goes for what is no file
    except OSError as full:
        LOG.warning("%s is loaded without keeping it: %s", content.public_uri, full)
        return origin
    if entry is None:
        LOG.warning("%s is loaded without keeping it: the node's cache has no room for it", content.public_uri)
        return origin
    node = this_node(store)
    return ReadThrough(store, entry, origin, node)


def _from_cache_alone(store: Store, uri: str, error: SourceUnreachable) -> Source:
    """Read the version that was used last and is here in full, or raise why the origin does not answer."""
    for content in _known(store, uri):
        entry = _opened(store, content)
        if entry is not None and entry.complete():
            LOG.warning(
                "%s cannot be reached (%s); loading the version in the cache", content.public_uri, error.problem
            )
            return ReadThrough(store, entry, Gone(uri, content, error))
        if entry is not None:
            entry.close()
    return _from_peers_alone(store, uri, error)


def _known(store: Store, uri: str) -> list[Content]:
    try:
        return store.known(uri)
    except OSError:
        return []


def _opened(store: Store, content: Content) -> Entry | None:
    try:
        return store.open(content, content.size)
    except OSError:
        return None


def _from_peers_alone(store: Store, uri: str, error: SourceUnreachable) -> Source:
    """Read what other nodes have in full, or raise why the origin does not answer."""
    node = this_node(store)
    content = node.find(uri) if node else None
    entry = _opened(store, content) if content else None
    if node is None or content is None or entry is None:
        raise error
    LOG.warning("%s: loading the version that peers have: %s", content.public_uri, error.problem)
    source = ReadThrough(store, entry, Gone(uri, content, error), node)
    source.expect_from_peers()
    return source
