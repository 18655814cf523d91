"""Where tensors can go."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch

from loaders.safetensors.errors import LoadError
from loaders.safetensors.fetch import Landing as ChunkLanding
from loaders.safetensors.host import HostLanding, Target
from loaders.safetensors.layout import Layout


class Landing(ChunkLanding, Protocol):
    """A landing that makes tensors of what has landed."""

    def settle(self) -> None:
        """Return when everything that has landed is in place."""

    def ready(self, number: int) -> torch.Tensor:
        """Return a complete tensor, its bytes in place; wait for them if need be."""

    def tensor(self, number: int) -> torch.Tensor:
        """Return a tensor after `settle`."""

    def forget(self, block: int) -> None:
        """Keep the block no longer: its tensors do."""


def landing_for(device: torch.device, targets: Sequence[Target], layout: Layout) -> AbstractContextManager[Landing]:
    """Return the landing for a device; raise `LoadError` for one that is not there."""
    if device.type == "cpu":
        return nullcontext(HostLanding(targets, layout))
    raise LoadError(f"nothing here loads to {device}; cpu and cuda are known")
