"""One load from beginning to end: open, judge, plan, check the memory, bring, hand over."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Container, Generator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import torch

from loaders.safetensors.cache_read import ReadThrough
from loaders.safetensors.checkpoint import Checkpoint, open_checkpoint
from loaders.safetensors.devices import (
    Landing,
    check_device,
    free_on,
    landing_for,
    layout_for,
    needed_bytes,
    warm_up,
)
from loaders.safetensors.errors import LoadCancelled, LoadTimedOut, NotEnoughMemory
from loaders.safetensors.fetch import Fetch
from loaders.safetensors.host import Target
from loaders.safetensors.layout import BLOCK_BYTES, Layout
from loaders.safetensors.plan import Chunk, Wanted, make_chunks
from loaders.safetensors.progress import REPORTS_EVERY, Progress, Report, Tally, reporter
from loaders.safetensors.selection import Shard, Tensors, bounds_of, chosen
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.opening import Origin, scheme_of
from loaders.safetensors.tensors import torch_dtype

STREAM_BLOCK_BYTES = 16 * 1024 * 1024
"""When tensors are handed over one by one their memory must be free to go one by one, nearly."""
CANCEL_SEEN_WITHIN = 0.05


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What the caller wants. Fields are the arguments of `load_file`."""

    uri: str
    device: torch.device
    origin: Origin = field(default_factory=Origin)
    tensors: Tensors = None
    shard: Shard | None = None
    dtype: torch.dtype | None = None
    progress: bool | Report | None = None
    timeout: float | timedelta | None = None
    cancel: threading.Event | None = None
    memory_limit: int | None = None
    within: Container[str] | None = None
    """Of the tensors asked for, only those with these names are read."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done: decided in full before the first byte of a tensor is read."""

    checkpoint: Checkpoint
    targets: tuple[Target, ...]
    layout: Layout
    chunks: tuple[Chunk, ...]

    @property
    def names(self) -> list[str]:
        """The tensors' names, in order."""
        return [target.wanted.spec.name for target in self.targets]


@contextlib.contextmanager
def watched(ask: Ask) -> Iterator[Interrupt]:
    """Within the block the interrupt fires when the time is over or the caller cancels."""
    interrupt, over = Interrupt(), threading.Event()
    if ask.timeout is None and ask.cancel is None:
        yield interrupt
        return
    if ask.cancel is not None and ask.cancel.is_set():
        raise _cancelled(ask)  # a small file would be there before the first look
    watch = threading.Thread(target=_watch, args=(ask, interrupt, over), name="weights-watch", daemon=True)
    watch.start()
    try:
        yield interrupt
    finally:
        over.set()
        watch.join()


def _cancelled(ask: Ask) -> LoadCancelled:
    return LoadCancelled("cancelled by the caller", uri=ask.uri)


def _watch(ask: Ask, interrupt: Interrupt, over: threading.Event) -> None:
    limit = ask.timeout.total_seconds() if isinstance(ask.timeout, timedelta) else ask.timeout
    until = None if limit is None else time.monotonic() + limit
    while True:
        left = None if until is None else until - time.monotonic()
        # An event of the caller's cannot be waited for together with the end of the load, so it is looked at.
        pause = left if ask.cancel is None else min(CANCEL_SEEN_WITHIN, CANCEL_SEEN_WITHIN if left is None else left)
        if over.wait(None if pause is None else max(0.0, pause)):
            return None
        if ask.cancel is not None and ask.cancel.is_set():
            return interrupt.fire(_cancelled(ask))
        if until is not None and time.monotonic() >= until:
            return interrupt.fire(LoadTimedOut(f"not done after {limit} s", uri=ask.uri))


@contextlib.contextmanager
def prepared(ask: Ask, interrupt: Interrupt, block_bytes: int = BLOCK_BYTES) -> Iterator[Job]:
    """Open the checkpoint and decide everything; close it after the block."""
    check_device(ask.device)
    warm_up(ask.device)
    checkpoint = open_checkpoint(ask.uri, ask.origin, interrupt)
    try:
        yield plan_job(ask, checkpoint, block_bytes)
    finally:
        checkpoint.close()


def plan_job(ask: Ask, checkpoint: Checkpoint, block_bytes: int) -> Job:
    """Decide what is read and where it goes."""
    specs = {spec.name: (file, spec) for file, spec in checkpoint.tensors}
    names = chosen(list(specs), ask.tensors, ask.uri)
    if ask.within is not None:
        names = [name for name in names if name in ask.within]
    targets = []
    for name in names:
        file, spec = specs[name]
        wanted = Wanted(file=file, spec=spec, bounds=bounds_of(spec, ask.shard, ask.uri))
        stored = torch_dtype(spec.dtype, uri=ask.uri, tensor=name)
        cast = ask.dtype is not None and stored.is_floating_point
        targets.append(Target(wanted=wanted, stored=stored, dtype=ask.dtype if cast and ask.dtype else stored))
    parts = [target.wanted for target in targets]
    layout = layout_for(ask.device, targets, block_bytes)
    chunks = make_chunks(parts, layout.breaks)
    tell_caches(checkpoint, chunks)
    return Job(checkpoint=checkpoint, targets=tuple(targets), layout=layout, chunks=chunks)


def tell_caches(checkpoint: Checkpoint, chunks: tuple[Chunk, ...]) -> None:
    """Say what will be read, headers included: the cache keeps what is wanted whole, and fetches nothing else whole."""
    for number, (source, header) in enumerate(zip(checkpoint.sources, checkpoint.headers, strict=True)):
        if isinstance(source, ReadThrough):
            ranges = [(chunk.start, chunk.stop) for chunk in chunks if chunk.file == number]
            source.expect([(0, header.data_start), *ranges])


def check_memory(ask: Ask, needed: int) -> None:
    """Raise `NotEnoughMemory` if the result cannot fit: better now than after minutes, killed by the kernel."""
    if ask.memory_limit is not None and needed > ask.memory_limit:
        problem = (
            f"needs {needed} bytes, memory_limit allows {ask.memory_limit}; read less with tensors= or use stream()"
        )
        raise NotEnoughMemory(problem, uri=ask.uri)
    free = free_on(ask.device)
    if free is not None and needed > free:
        raise NotEnoughMemory(f"needs {needed} bytes, {ask.device} has {free} left", uri=ask.uri)


class Window:
    """Lets chunks begin as long as what was begun and not yet taken by the consumer stays within the limit."""

    def __init__(self, limit: int, size_of: Callable[[Chunk], int]) -> None:
        """`size_of` tells how much memory a chunk will take."""
        self._limit = limit
        self._size_of = size_of
        self._lock = threading.Lock()
        self._taken = 0

    def admits(self, chunk: Chunk) -> bool:
        """Take room for the chunk if there is."""
        size = self._size_of(chunk)
        with self._lock:
            if self._taken and self._taken + size > self._limit:
                return False
            self._taken += size
            return True

    def release(self, size: int) -> None:
        """Give room back."""
        with self._lock:
            self._taken -= size


def bring(ask: Ask, job: Job, interrupt: Interrupt, landing: Landing, window: Window | None = None) -> Iterator[int]:
    """Yield the number of each tensor as soon as it is complete."""
    left = [target.wanted.size for target in job.targets]
    yield from (number for number, size in enumerate(left) if not size)
    fetch = Fetch(job.chunks, job.checkpoint.sources, landing, window)
    tally = Tally(reporter(ask.progress), _first_progress(ask, job))
    tally.tensors_done = left.count(0)
    for chunk in fetch.landed(interrupt, tally.tick, REPORTS_EVERY):
        tally.done += chunk.size
        complete = []
        for piece in chunk.pieces:
            left[piece.tensor] -= piece.count
            if not left[piece.tensor]:
                complete.append(piece.tensor)
        tally.tensors_done += len(complete)
        for number in complete:
            yield number
            if window is not None:
                window.release(job.targets[number].size)
        if window is not None:
            fetch.nudge()
    tally.tick(now_or_never=True)


def _first_progress(ask: Ask, job: Job) -> Progress:
    return Progress(
        uri=ask.uri,
        source=scheme_of(ask.uri) or "file",
        done=0,
        total=sum(chunk.size for chunk in job.chunks),
        tensors_done=0,
        tensors_total=len(job.targets),
        seconds=0.0,
    )


def load(ask: Ask) -> dict[str, torch.Tensor]:
    """Load everything asked for, in the order of the file."""
    with watched(ask) as interrupt, prepared(ask, interrupt) as job:
        check_memory(ask, needed_bytes(ask.device, job.targets, job.layout))
        found: dict[int, torch.Tensor] = {}
        with landing_for(ask.device, job.targets, job.layout) as landing:
            blocks = Blocks(job.layout, landing)
            for number in bring(ask, job, interrupt, landing):
                found[number] = landing.tensor(number)
                blocks.handed_over(number)
            landing.settle()
        return {name: found[number] for number, name in enumerate(job.names)}


def stream(ask: Ask) -> Generator[tuple[str, torch.Tensor], None, None]:
    """Yield tensors as they are complete."""
    return stream_job(ask, lambda _: None)


def stream_job(ask: Ask, check: Callable[[Job], None]) -> Generator[tuple[str, torch.Tensor], None, None]:
    """Yield tensors as they are complete, if `check` does not raise when it sees what will be read."""
    with watched(ask) as interrupt, prepared(ask, interrupt, STREAM_BLOCK_BYTES) as job:
        check(job)
        largest = max((target.size for target in job.targets), default=0)
        window = None
        if ask.memory_limit is not None:
            # While one tensor lies there in part, its next chunk must fit, cast as it lands: or nothing would go on.
            check_memory(ask, largest + max((_landed_size(job, chunk) for chunk in job.chunks), default=0))
            window = Window(ask.memory_limit, lambda chunk: _landed_size(job, chunk))
        with landing_for(ask.device, job.targets, job.layout) as landing:
            blocks = Blocks(job.layout, landing)
            for number in bring(ask, job, interrupt, landing, window):
                ready = landing.ready(number)
                blocks.handed_over(number)
                handed = (job.names[number], ready)
                del ready
                yield handed
                del handed


class Blocks:
    """Lets the landing forget each block once all its tensors are the caller's: then they alone keep it."""

    def __init__(self, layout: Layout, landing: Landing) -> None:
        """All tensors are still to come."""
        self._places = layout.places
        self._landing = landing
        self._left = [0] * len(layout.blocks)
        for place in layout.places:
            self._left[place.block] += 1

    def handed_over(self, number: int) -> None:
        """The caller has this tensor."""
        block = self._places[number].block
        self._left[block] -= 1
        if not self._left[block]:
            self._landing.forget(block)


def _landed_size(job: Job, chunk: Chunk) -> int:
    targets = job.targets
    return sum(
        piece.count // targets[piece.tensor].stored.itemsize * targets[piece.tensor].dtype.itemsize
        for piece in chunk.pieces
    )
