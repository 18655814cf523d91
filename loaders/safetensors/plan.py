"""From tensors to byte ranges to chunks: pure.

Adjacent ranges become one; ranges with small gaps too, as long as what is read in vain stays within `MOST_WASTE`. Long
ranges are cut at multiples of the chunk size of the file, so that every process that reads it cuts it alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from loaders.safetensors.dtypes import item_bytes
from loaders.safetensors.header import TensorSpec
from loaders.safetensors.selection import Bounds

CHUNK_BYTES = 8 * 1024 * 1024
"""Large enough that a request's cost vanishes, small enough that many streams share a file."""
SMALLEST_CHUNK_BYTES = 1024 * 1024
CHUNKS_WORTH_HAVING = 16
"""A small load is cut finer, so that it too is read by several streams."""
MOST_WASTE = 0.05
"""Of the bytes that are needed, this share may be read in vain."""
CUT_SLACK = 64
"""Chunks end on whole elements; the last bytes before a cut may have to go to the next chunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A tensor, or the part of it within `bounds`, of the file with this number."""

    file: int
    spec: TensorSpec
    bounds: Bounds

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        return tuple(stop - start for start, stop in self.bounds)

    @property
    def whole(self) -> bool:
        """Whether it is all of the tensor."""
        return self.shape == self.spec.shape

    @property
    def size(self) -> int:
        """Bytes of the part."""
        if self.whole:
            return self.spec.stop - self.spec.start
        return math.prod(self.shape) * item_bytes(self.spec.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """`count` bytes at `at` in a chunk belong to the wanted tensor with this number, at its byte `to`."""

    tensor: int
    at: int
    to: int
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """One read: bytes [start, stop) of a file, and whose they are, in order."""

    file: int
    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes to read."""
        return self.stop - self.start

    @property
    def needed(self) -> int:
        """Bytes of it that are wanted."""
        return sum(piece.count for piece in self.pieces)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    file: int
    start: int
    stop: int
    tensor: int
    to: int


def runs_of(wanted: Wanted) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of the part, in its own order."""
    spec, shape = wanted.spec, wanted.spec.shape
    if wanted.size == 0:
        return
    if wanted.whole:
        yield spec.start, spec.stop
        return
    strides = [item_bytes(spec.dtype)] * len(shape)
    for dimension in range(len(shape) - 2, -1, -1):
        strides[dimension] = strides[dimension + 1] * shape[dimension + 1]
    inner = max(dimension for dimension, length in enumerate(shape) if wanted.shape[dimension] != length)
    first, last = wanted.bounds[inner]
    for place in itertools.product(*(range(*bounds) for bounds in wanted.bounds[:inner])):
        row = spec.start + sum(index * stride for index, stride in zip(place, strides, strict=False))
        yield row + first * strides[inner], row + last * strides[inner]


def chunk_bytes_for(total: int) -> int:
    """Return the chunk size for a load of so many bytes."""
    size = CHUNK_BYTES
    while size > SMALLEST_CHUNK_BYTES and total < size * CHUNKS_WORTH_HAVING:
        size //= 2
    return size


def make_chunks(wanted: Sequence[Wanted], breaks: frozenset[int] = frozenset()) -> tuple[Chunk, ...]:
    """Return the reads that bring exactly these tensors. No chunk spans the beginning of a tensor in `breaks`."""
    runs = sorted(
        (
            _Run(file=part.file, start=start, stop=stop, tensor=number, to=to)
            for number, part in enumerate(wanted)
            for start, stop, to in _with_places(runs_of(part))
        ),
        key=lambda run: (run.file, run.start),
    )
    widest = _widest_gap(runs)
    size = chunk_bytes_for(sum(run.stop - run.start for run in runs))
    found: list[Chunk] = []
    open_chunk: _Open | None = None
    for run in runs:
        item = item_bytes(wanted[run.tensor].spec.dtype)
        at = run.start
        while at < run.stop:
            joins = open_chunk is not None and open_chunk.may_take(run, at, widest)
            if open_chunk is None or not joins or (at == run.start and run.to == 0 and run.tensor in breaks):
                found += [open_chunk.closed()] if open_chunk else []
                open_chunk = _Open(run.file, at, size)
            taken = open_chunk.take(run, at, item)
            if not taken:
                found.append(open_chunk.closed())
                open_chunk = None
            at += taken
    return tuple([*found, open_chunk.closed()] if open_chunk else found)


def _with_places(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    to = 0
    for start, stop in runs:
        yield start, stop, to
        to += stop - start


def _widest_gap(runs: Sequence[_Run]) -> int:
    """Return the widest gap that can be read over everywhere without wasting more than allowed."""
    budget = int(MOST_WASTE * sum(run.stop - run.start for run in runs))
    gaps = sorted(after.start - run.stop for run, after in itertools.pairwise(runs) if after.file == run.file)
    widest, spent = 0, 0
    for width, same in itertools.groupby(gaps):
        spent += width * len(list(same))
        if spent > budget:
            break
        widest = width
    return widest


class _Open:
    """A chunk that still grows."""

    def __init__(self, file: int, start: int, size: int) -> None:
        limit = (start // size + 1) * size
        self.file, self.start, self.stop = file, start, start
        self.limit = limit if limit - start > CUT_SLACK else limit + size
        self.pieces: list[Piece] = []

    def may_take(self, run: _Run, at: int, widest: int) -> bool:
        return self.file == run.file and at - self.stop <= widest and at < self.limit

    def take(self, run: _Run, at: int, item: int) -> int:
        stop = run.stop
        if stop > self.limit:
            stop = self.limit - (self.limit - run.start) % item
        if stop <= at:
            return 0
        place = Piece(tensor=run.tensor, at=at - self.start, to=run.to + at - run.start, count=stop - at)
        self.pieces.append(place)
        self.stop = stop
        return stop - at

    def closed(self) -> Chunk:
        return Chunk(file=self.file, start=self.start, stop=self.stop, pieces=tuple(self.pieces))
