"""Weights into this node's cache. The function for everyone is in stage.py."""

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


@dataclass(frozen=True, kw_only=True)
class NodeStaged:
    """What became of one URI on one node: `staged`, or the `error` that says why not."""

    node: str
    uri: str = ""
    staged: Staged | None = None
    error: str | None = None


Told = Callable[[int, int], None]
"""Gets bytes done and bytes in all, a few times a second at most and at the end."""


def stage_here(uri: str, region: str | None, timeout: float | None, told: Told | None = None) -> Staged:
    """Put weights into this node's cache: see `stage`."""
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
        "cannot be kept in the node's cache: it has no room for it or cannot be used, or the origin gives no ETag",
        uri=source.uri,
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
