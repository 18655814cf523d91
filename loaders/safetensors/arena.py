"""Tensors on a device: chunks go from the ring to arenas by copies that overlap with reading.

An arena is a block of device memory that is used once: tensors are views of it that never share a byte, and no later
load writes to it. It is given back when the last of its tensors is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import torch

from loaders.safetensors.host import Target
from loaders.safetensors.layout import ALIGNMENT, Layout, straight
from loaders.safetensors.plan import Chunk
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.staging import Event, Ring


class Device(Protocol):
    """What an arena needs of a device. Called from many threads; copies begin in the order of the calls."""

    def take(self, size: int) -> torch.Tensor:
        """Return so many bytes of device memory."""

    def copy(self, source: memoryview, target: torch.Tensor) -> Event:
        """Begin to copy pinned memory into a part of an arena, of the same size."""

    def cast(self, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the tensor in another dtype, after all copies begun so far."""


class DeviceLanding:
    """Lands chunks in arenas. The layout is that of the bytes as stored; casts follow when a tensor is complete."""

    def __init__(self, targets: Sequence[Target], layout: Layout, device: Device, ring: Ring) -> None:
        """Take no device memory yet."""
        self._targets = targets
        self._layout = layout
        self._device = device
        self._ring = ring
        self._arenas: dict[int, torch.Tensor] = {}
        self._last: dict[int, list[Event]] = {}
        self._lock = threading.Lock()

    def read(self, chunk: Chunk, source: Source, interrupt: Interrupt) -> None:
        """Read into a slot, then let the device copy from it."""
        number = self._ring.take(interrupt)
        event = None
        try:
            content = self._part_of_slot(number, chunk)
            source.read_into(chunk.start, content, interrupt)
            event = self._copy(chunk, content)
        finally:
            self._ring.give_back(number, event)

    def put(self, chunk: Chunk, content: memoryview) -> None:
        """Copy bytes that were received elsewhere, by way of a slot as well: only those are pinned."""
        number = self._ring.take(Interrupt())
        event = None
        try:
            slot = self._part_of_slot(number, chunk)
            slot[:] = content
            event = self._copy(chunk, slot)
        finally:
            self._ring.give_back(number, event)

    def name(self, chunk: Chunk, offset: int) -> str:
        """Return the tensor of this byte; of a byte in a gap, the one before it."""
        before = [piece for piece in chunk.pieces if chunk.start + piece.at <= offset]
        return self._targets[(before or chunk.pieces)[-1 if before else 0].tensor].wanted.spec.name

    def settle(self) -> None:
        """Wait for every copy."""
        self._ring.drain()

    def ready(self, number: int) -> torch.Tensor:
        """Wait for the copies of this tensor and return it."""
        with self._lock:
            events = self._last.pop(number, [])
        for event in events:
            event.wait()
        return self.tensor(number)

    def tensor(self, number: int) -> torch.Tensor:
        """Return the tensor in the caller's dtype. One that is cast has memory of its own."""
        target, place = self._targets[number], self._layout.places[number]
        if not target.wanted.size:
            return self._device.take(0).view(target.dtype).view(target.wanted.shape)
        stored = self._arena(place.block)[place.offset : place.offset + target.wanted.size].view(target.stored)
        shaped = stored.view(target.wanted.shape)
        return self._device.cast(shaped, target.dtype) if target.cast else shaped

    def forget(self, block: int) -> None:
        """Keep the arena no longer: its tensors do."""
        with self._lock:
            self._arenas.pop(block, None)

    def _part_of_slot(self, number: int, chunk: Chunk) -> memoryview:
        shift = chunk.start % ALIGNMENT
        return self._ring.slot(number)[shift : shift + chunk.size]

    def _copy(self, chunk: Chunk, content: memoryview) -> Event:
        place = straight(chunk, self._layout.places)
        with self._lock:
            # Under the lock so that events are recorded in the order in which the ring will wait for them.
            if place is not None:
                arena = self._taken(place.block)
                event = self._device.copy(content, arena[place.offset : place.offset + chunk.size])
            else:
                event = self._copy_pieces(chunk, content)
            for piece in chunk.pieces:
                self._last.setdefault(piece.tensor, []).append(event)
        return event

    def _copy_pieces(self, chunk: Chunk, content: memoryview) -> Event:
        for piece in chunk.pieces:
            place = self._layout.places[piece.tensor]
            begin = place.offset + piece.to
            part = self._taken(place.block)[begin : begin + piece.count]
            event = self._device.copy(content[piece.at : piece.at + piece.count], part)
        return event

    def _arena(self, number: int) -> torch.Tensor:
        with self._lock:
            return self._taken(number)

    def _taken(self, number: int) -> torch.Tensor:
        if number not in self._arenas:
            self._arenas[number] = self._device.take(self._layout.blocks[number])
        return self._arenas[number]
