"""CUDA: one copy stream per load, and one ring of pinned memory per process."""

from __future__ import annotations

import ctypes
import functools
import threading

import torch

from loaders.safetensors.errors import LoadError
from loaders.safetensors.memory import HostBlock
from loaders.safetensors.staging import SLOT_BYTES, SLOTS, Event, Ring

_PAGE = 4096
_making = threading.Lock()


class CopyEvent:
    """`torch.cuda.Event` in the ring's words."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """After everything in the stream so far."""
        self._event = torch.cuda.Event()
        self._event.record(stream)

    def done(self) -> bool:
        """Tell whether the device is past it."""
        return bool(self._event.query())

    def wait(self) -> None:
        """Block until the device is past it."""
        self._event.synchronize()


class CudaDevice:
    """Allocates on the caller's stream, so that memory freed later is used again in order; copies on its own stream."""

    def __init__(self, device: torch.device) -> None:
        """Remember the caller's stream: threads have their own."""
        self._device = device
        self._caller = torch.cuda.current_stream(device)
        self._copies = torch.cuda.Stream(device)

    def take(self, size: int) -> torch.Tensor:
        """Return device memory; kernels of the caller that still use what it was before are waited for."""
        with torch.cuda.stream(self._caller):
            found = torch.empty(size, dtype=torch.uint8, device=self._device)
        self._copies.wait_stream(self._caller)
        return found

    def copy(self, source: memoryview, target: torch.Tensor) -> Event:
        """Begin a copy."""
        with torch.cuda.stream(self._copies):
            target.copy_(torch.frombuffer(source, dtype=torch.uint8), non_blocking=True)
        return CopyEvent(self._copies)

    def cast(self, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Cast in the copy stream; the arena may be freed meanwhile, and is kept from others until it was read."""
        result = self.take(stored.numel() * dtype.itemsize).view(dtype).view(stored.shape)
        with torch.cuda.stream(self._copies):
            result.copy_(stored)
        stored.record_stream(self._copies)
        return result

    def finish(self) -> None:
        """Return when everything in the copy stream is done."""
        self._copies.synchronize()


def free_bytes(device: torch.device) -> int:
    """Return how much a load may take: what the device has, and what PyTorch holds without using it."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def pinned_ring() -> Ring:
    """Return the process's ring. The first call pins its memory, which takes tens of milliseconds."""
    with _making:
        return _pinned_ring()


@functools.cache
def _pinned_ring() -> Ring:
    step = -(-SLOT_BYTES // _PAGE) * _PAGE
    memory = HostBlock(SLOTS * step).memory
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    status = torch.cuda.cudart().cudaHostRegister(address, len(memory), 0)
    if int(status) != 0:
        raise LoadError(f"CUDA cannot pin {len(memory)} bytes of host memory (error {int(status)}); see ulimit -l")
    return Ring([memory[at : at + step] for at in range(0, len(memory), step)])
