"""Where tensors can go."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from loaders.safetensors.arena import DeviceLanding
from loaders.safetensors.errors import LoadError
from loaders.safetensors.fetch import Landing as ChunkLanding
from loaders.safetensors.host import HostLanding, Target
from loaders.safetensors.layout import Layout, lay_out
from loaders.safetensors.memory import available


class Landing(ChunkLanding, Protocol):
    """A landing that makes tensors of what has landed."""

    def settle(self) -> None:
        """Return when everything that has landed is in place."""

    def ready(self, number: int) -> torch.Tensor:
        """Return a complete tensor, its bytes in place; wait for them if need be."""

    def tensor(self, number: int) -> torch.Tensor:
        """Return a complete tensor, its bytes in place after `settle`."""

    def forget(self, block: int) -> None:
        """Keep the block no longer: its tensors do."""


def check_device(device: torch.device) -> None:
    """Raise `LoadError` for a device that nothing here loads to."""
    if device.type not in ("cpu", "cuda"):
        raise LoadError(f"nothing here loads to {device}; cpu and cuda are known")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LoadError(f"no CUDA device here for {device}: this PyTorch ({torch.__version__}) finds none")


def warm_up(device: torch.device) -> None:
    """Begin what takes a while and does not depend on the file: pinning."""
    if device.type == "cuda":
        from loaders.safetensors.cuda import pinned_ring

        threading.Thread(target=pinned_ring, name="weights-pin", daemon=True).start()


def layout_for(device: torch.device, targets: Sequence[Target], block_bytes: int) -> Layout:
    """Return where the tensors lie: on the host as the caller gets them, on a device as they are stored."""
    parts = [target.wanted for target in targets]
    if device.type == "cpu":
        sizes, items = [target.size for target in targets], [target.dtype.itemsize for target in targets]
    else:
        sizes, items = [part.size for part in parts], [target.stored.itemsize for target in targets]
    return lay_out(parts, sizes, items, block_bytes)


def needed_bytes(device: torch.device, targets: Sequence[Target], layout: Layout) -> int:
    """Return what the result will take at most; what is cast on a device is there twice for a while."""
    if device.type == "cpu":
        return layout.size
    return layout.size + sum(target.size for target in targets if target.cast)


def free_on(device: torch.device) -> int | None:
    """Return how many bytes the device has left; `None` if nobody can say."""
    if device.type == "cpu":
        return available()
    from loaders.safetensors.cuda import free_bytes

    return free_bytes(device)


@contextlib.contextmanager
def landing_for(device: torch.device, targets: Sequence[Target], layout: Layout) -> Iterator[Landing]:
    """Within the block chunks can land. After it no copy is going on, however it ended."""
    if device.type == "cpu":
        yield HostLanding(targets, layout)
        return
    from loaders.safetensors.cuda import CudaDevice, pinned_ring

    cuda = CudaDevice(device)
    landing = DeviceLanding(targets, layout, cuda, pinned_ring())
    try:
        yield landing
    finally:
        cuda.finish()
        landing.settle()
