"""Where tensors come to lie in memory: pure.

Tensors that lie side by side in the file lie side by side in a block, so that a chunk is received in one piece; offsets
are congruent with the file's, so that what is aligned there is aligned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loaders.safetensors.plan import Chunk, Wanted

BLOCK_BYTES = 256 * 1024 * 1024
"""Memory is taken in blocks of about this size. One is given back when the last of its tensors is gone."""
ALIGNMENT = 256
"""What devices copy fastest from, and more than any dtype needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A tensor's bytes begin at `offset` of this block."""

    block: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The blocks' sizes, and each wanted tensor's place."""

    blocks: tuple[int, ...]
    places: tuple[Place, ...]

    @property
    def size(self) -> int:
        """Bytes of all blocks."""
        return sum(self.blocks)

    @property
    def breaks(self) -> frozenset[int]:
        """The tensors that begin a block."""
        return frozenset(
            number
            for number, place in enumerate(self.places)
            if number and place.block != self.places[number - 1].block
        )


def lay_out(wanted: Sequence[Wanted], sizes: Sequence[int], items: Sequence[int], block_bytes: int) -> Layout:
    """Place tensors of `sizes` bytes and `items` bytes per element, in the order of the file."""
    blocks: list[int] = []
    places: list[Place] = []
    for number, (part, size, item) in enumerate(zip(wanted, sizes, items, strict=True)):
        if not blocks or (blocks[-1] and blocks[-1] + size > block_bytes):
            blocks.append(0)
        offset = _next_offset(blocks[-1], part, wanted[number - 1] if number else None, item)
        places.append(Place(block=len(blocks) - 1, offset=offset))
        blocks[-1] = offset + size
    return Layout(blocks=tuple(blocks), places=tuple(places))


def _next_offset(end: int, part: Wanted, before: Wanted | None, item: int) -> int:
    beside = before is not None and before.file == part.file and before.spec.stop == part.spec.start
    if end == 0:
        # In front of the first tensor as much room as puts it where the file has it, modulo the alignment.
        end = part.spec.start % ALIGNMENT
    elif not beside:
        end += (part.spec.start - end) % ALIGNMENT
    return end + (-end) % item


def straight(chunk: Chunk, places: Sequence[Place]) -> Place | None:
    """Return where a chunk can be received as it is; `None` when its pieces must be sorted apart."""
    first = chunk.pieces[0]
    block = places[first.tensor].block
    origin = places[first.tensor].offset + first.to - first.at
    for piece in chunk.pieces:
        place = places[piece.tensor]
        if place.block != block or place.offset + piece.to - piece.at != origin:
            return None
    whole = chunk.needed == chunk.size
    return Place(block=block, offset=origin) if whole else None
