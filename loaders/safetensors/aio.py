"""`load_file`, `stream` and `load_into` for code that runs in an event loop.

They take what the functions of `loaders.safetensors.torch` take and do the same work on one thread of their own: the
loop goes on meanwhile, so a replica answers health checks. A task that is cancelled ends its load first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Literal, TypedDict, TypeVar, Unpack

from loaders.safetensors.tensors import torch as pytorch  # first: it says what to do where PyTorch is missing

# isort: split
from loaders.safetensors import torch
from loaders.safetensors.progress import Report
from loaders.safetensors.selection import Shard, Tensors

__all__ = ["load_file", "load_into", "stream"]

Result = TypeVar("Result")


class LoadOptions(TypedDict, total=False):
    """The keyword arguments of `loaders.safetensors.torch.load_file` and `stream`."""

    tensors: Tensors
    shard: Shard | None
    dtype: pytorch.dtype | None
    progress: bool | Report | None
    timeout: float | timedelta | None
    cancel: threading.Event | None
    cache: Literal["node"] | None
    verify: Literal["size"]
    memory_limit: int | None


class IntoOptions(LoadOptions, total=False):
    """The keyword arguments of `loaders.safetensors.torch.load_into`."""

    strict: bool


class _Either(threading.Event):
    """Set when it was set itself, or when the caller's own event was."""

    def __init__(self, other: threading.Event | None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or (self._other is not None and self._other.is_set())


async def load_file(
    file_uri: str, device: str | pytorch.device = "cpu", region: str | None = None, **options: Unpack[LoadOptions]
) -> dict[str, pytorch.Tensor]:
    """Load weights as `loaders.safetensors.torch.load_file` does.

    `progress` is called on the load's thread, not in the event loop.
    """
    options["cancel"] = cancel = _Either(options.get("cancel"))
    with ThreadPoolExecutor(1, "weights") as thread:
        return await _on(thread, cancel, lambda: torch.load_file(file_uri, device, region, **options))


async def load_into(
    module: pytorch.nn.Module,
    file_uri: str,
    device: str | pytorch.device = "cpu",
    region: str | None = None,
    **options: Unpack[IntoOptions],
) -> None:
    """Load a module's parameters and buffers as `loaders.safetensors.torch.load_into` does."""
    options["cancel"] = cancel = _Either(options.get("cancel"))
    with ThreadPoolExecutor(1, "weights") as thread:
        await _on(thread, cancel, lambda: torch.load_into(module, file_uri, device, region, **options))


async def stream(
    file_uri: str, device: str | pytorch.device = "cpu", region: str | None = None, **options: Unpack[LoadOptions]
) -> AsyncIterator[tuple[str, pytorch.Tensor]]:
    """Yield `(name, tensor)` as `loaders.safetensors.torch.stream` does.

    Who leaves the loop early and wants the load to end there closes it: `contextlib.aclosing`.
    """
    options["cancel"] = cancel = _Either(options.get("cancel"))
    with ThreadPoolExecutor(1, "weights") as thread:
        # Made, advanced and closed on the same thread: a device's current stream is a thread's own.
        tensors = await _on(thread, cancel, lambda: torch.stream(file_uri, device, region, **options))
        try:
            while (found := await _on(thread, cancel, lambda: next(tensors, None))) is not None:
                yield found
                del found
        finally:
            await _on(thread, cancel, tensors.close)


async def _on(thread: ThreadPoolExecutor, cancel: threading.Event, work: Callable[[], Result]) -> Result:
    """Do the work on the thread. A cancelled task waits until the load has ended, which it does soon."""
    doing = asyncio.get_running_loop().run_in_executor(thread, work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        cancel.set()
        # Cancelled again meanwhile, it must not leave: the pool would then hold the loop until the load has ended.
        while not doing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([doing])
        doing.exception()  # Looked at, or the loop complains that nobody did.
        raise
