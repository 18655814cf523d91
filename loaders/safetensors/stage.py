"""Weights into this node's cache, ahead of the replicas that will load them. For other nodes: stage_nodes.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from loaders.safetensors.cache_read import ReadThrough
from loaders.safetensors.checkpoint import open_checkpoint
from loaders.safetensors.errors import LoadError, SourceFailed, shown
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.opening import Origin, local_path

MOST_STREAMS = 16
"""Each takes one chunk of memory while it runs: staging is done beside replicas that serve."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What is in the cache now: bytes in all, how many of them came over the network, and how long it took."""

    uri: str
    size: int
    fetched: int
    seconds: float


Told = Callable[[int, int], None]
"""Gets bytes done and bytes in all, a few times a second at most and at the end."""


def stage(uri: str, *, region: str | None = None, timeout: float | None = None, told: Told | None = None) -> Staged:
    """Put a file, or every file of an index or a folder, into this node's cache; return when it is there in full.

    Raises a `LoadError` if it is not as it should be, cannot be kept, or is not done after `timeout` seconds.
    """
    began, interrupt = time.monotonic(), Interrupt()
    timer = None if timeout is None else threading.Timer(
        timeout, interrupt.fire, [LoadError(f"not staged after {timeout:g} s", uri=uri)]
    )  # fmt: skip
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        checkpoint = open_checkpoint(uri, Origin(region=region, cache="node"), interrupt)
        try:
            sources = [_kept(source) for source in checkpoint.sources]
            _fill(sources, interrupt, told or (lambda done, total: None))
            fetched = sum(source.brought for source in sources)
        finally:
            checkpoint.close()
    finally:
        if timer is not None:
            timer.cancel()
    size = sum(source.size for source in sources)
    return Staged(uri=shown(uri), size=size, fetched=fetched, seconds=time.monotonic() - began)


def _kept(source: Source) -> ReadThrough:
    if isinstance(source, ReadThrough):
        return source
    if local_path(source.uri) is not None:
        raise SourceFailed("is on this machine already; there is nothing to stage", uri=source.uri)
    raise SourceFailed(
        "cannot be kept in the node's cache: the cache cannot be used, or the origin gives no ETag", uri=source.uri
    )


def _fill(sources: list[ReadThrough], interrupt: Interrupt, told: Told) -> None:
    total, done, lock = sum(source.size for source in sources), 0, threading.Lock()
    for source in sources:
        source.expect([(0, source.size)])
        if not source.keeps:
            raise SourceFailed("cannot be kept in the node's cache: it has no room for it", uri=source.uri)

    def bring(source: ReadThrough, chunk: int) -> None:
        nonlocal done
        length = source.content.length_of(chunk)
        source.read_into(chunk * source.content.chunk_size, memoryview(bytearray(length)), interrupt)
        with lock:
            done += length
            told(done, total)

    with interrupt.child() as inner, ThreadPoolExecutor(MOST_STREAMS, thread_name_prefix="weights-stage") as pool:
        futures = [pool.submit(bring, source, chunk) for source in sources for chunk in range(source.content.chunks)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            inner.fire(LoadError("the staging is over"))
            pool.shutdown(wait=False, cancel_futures=True)
            raise
