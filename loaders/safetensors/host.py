"""Tensors in the host's memory: chunks are received straight into them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loaders.safetensors.layout import ALIGNMENT, Layout, Place, straight
from loaders.safetensors.memory import HostBlock
from loaders.safetensors.plan import Chunk, Wanted
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.ahead import shifted
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.tensors import over


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a wanted tensor becomes: its dtype in the file, and the one the caller gets."""

    wanted: Wanted
    stored: torch.dtype
    dtype: torch.dtype

    @property
    def cast(self) -> bool:
        """Whether the bytes change on the way."""
        return bool(self.stored != self.dtype)

    @property
    def size(self) -> int:
        """Bytes of the result."""
        return self.wanted.size // int(self.stored.itemsize) * int(self.dtype.itemsize)


class HostLanding:
    """Lands chunks in blocks of host memory, which are taken when the first chunk needs them."""

    def __init__(self, targets: Sequence[Target], layout: Layout) -> None:
        """Take no memory yet."""
        self._targets = targets
        self._layout = layout
        self._blocks: dict[int, HostBlock] = {}
        self._lock = threading.Lock()
        self._scratch = threading.local()

    def read(self, chunk: Chunk, source: Source, interrupt: Interrupt) -> None:
        """Read into the tensors themselves where they lie as in the file, else into scratch memory first."""
        place = self._straight(chunk)
        if place is not None:
            block, stop = self._block(place.block), place.offset + chunk.size
            touch = shifted(block.touch, place.offset)
            source.read_into(chunk.start, block.memory[place.offset : stop], interrupt, touch)
            return
        content = self._scratch_for(chunk)
        source.read_into(chunk.start, content, interrupt)
        self.put(chunk, content)

    def put(self, chunk: Chunk, content: memoryview) -> None:
        """Copy or cast each piece to its tensor."""
        self._block(self._layout.places[chunk.pieces[0].tensor].block).try_huge_pages()
        for piece in chunk.pieces:
            part = content[piece.at : piece.at + piece.count]
            target = self._targets[piece.tensor]
            if target.cast:
                begin = piece.to // target.stored.itemsize
                stored = over(part, target.stored, (piece.count // target.stored.itemsize,))
                self._flat(piece.tensor)[begin : begin + len(stored)].copy_(stored)
            else:
                self._bytes(piece.tensor)[piece.to : piece.to + piece.count] = part

    def name(self, chunk: Chunk, offset: int) -> str:
        """Return the tensor of this byte; of a byte in a gap, the one before it."""
        before = [piece for piece in chunk.pieces if chunk.start + piece.at <= offset]
        return self._targets[(before or chunk.pieces)[-1 if before else 0].tensor].wanted.spec.name

    def settle(self) -> None:
        """Everything is in place as soon as it has landed."""

    def ready(self, number: int) -> torch.Tensor:
        """Return the tensor."""
        return self.tensor(number)

    def tensor(self, number: int) -> torch.Tensor:
        """Return the tensor over its memory."""
        target = self._targets[number]
        return over(self._bytes(number), target.dtype, target.wanted.shape)

    def forget(self, block: int) -> None:
        """Keep the block no longer: its tensors do."""
        with self._lock:
            self._blocks.pop(block, None)

    def _straight(self, chunk: Chunk) -> Place | None:
        if any(self._targets[piece.tensor].cast for piece in chunk.pieces):
            return None
        return straight(chunk, self._layout.places)

    def _scratch_for(self, chunk: Chunk) -> memoryview:
        """Memory congruent with the file, so that elements are aligned when they are cast."""
        shift = chunk.start % ALIGNMENT
        if len(getattr(self._scratch, "memory", b"")) < shift + chunk.size:
            self._scratch.memory = memoryview(bytearray(shift + chunk.size))
        found: memoryview = self._scratch.memory[shift : shift + chunk.size]
        return found

    def _block(self, number: int) -> HostBlock:
        with self._lock:
            if number not in self._blocks:
                self._blocks[number] = HostBlock(self._layout.blocks[number])
            return self._blocks[number]

    def _bytes(self, number: int) -> memoryview:
        place = self._layout.places[number]
        return self._block(place.block).memory[place.offset : place.offset + self._targets[number].size]

    def _flat(self, number: int) -> torch.Tensor:
        target = self._targets[number]
        return over(self._bytes(number), target.dtype, (target.size // target.dtype.itemsize,))
