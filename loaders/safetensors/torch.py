"""The API: `load_file`, `stream` and `load_into`."""

from __future__ import annotations

import threading
from collections.abc import Generator
from datetime import timedelta
from typing import Literal

from loaders.safetensors.tensors import torch  # first: it says what to do where PyTorch is missing

# isort: split
from loaders.safetensors import loading
from loaders.safetensors.modules import load_module
from loaders.safetensors.progress import Report
from loaders.safetensors.selection import Shard, Tensors
from loaders.safetensors.sources.opening import Origin

__all__ = ["load_file", "load_into", "stream"]

Cache = Literal["node"] | None
Verify = Literal["size"]


def load_file(  # noqa: PLR0913  # one function, a drop-in for the hosted product's: each argument is used by name
    file_uri: str,
    device: str | torch.device = "cpu",
    region: str | None = None,
    *,
    tensors: Tensors = None,
    shard: Shard | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | Report | None = None,
    timeout: float | timedelta | None = None,
    cancel: threading.Event | None = None,
    cache: Cache = "node",
    verify: Verify = "size",
    memory_limit: int | None = None,
) -> dict[str, torch.Tensor]:
    """Load weights and return them by name, in the order of the file.

    `file_uri` is a path or `http(s)://`, `s3://`, `gs://`, `az://` URI of a `.safetensors` file, an `*.index.json`, or
    a folder with either. Every tensor owns its memory. A `LoadError` names the URI, the tensor and the byte range.

    - `tensors`: a glob or a name, several of them, or a function of the name; by default all.
    - `shard`: `(rank, world, {glob: dimension})` for the rank's part of each matching tensor along that dimension, or
      `{glob: slices}`. Only those bytes are read.
    - `dtype`: floating-point tensors are cast to it on the way.
    - `progress`: a function that gets `Progress` ten times a second; `True` for a bar, `False` for none; by default a
      bar if there is a terminal.
    - `timeout`: seconds for the whole load. `cancel`: an event that ends it when set.
    - `cache`: `"node"` downloads remote files once per node for all its processes; `None` goes to the origin.
    - `verify`: `"size"` holds the load to one version of the object (ETag or modification time, and size).
    - `memory_limit`: bytes that the load may take; more is an error before the first byte.
    """
    return loading.load(
        _ask(
            file_uri, device, region,
            tensors=tensors, shard=shard, dtype=dtype, progress=progress, timeout=timeout, cancel=cancel,
            cache=cache, verify=verify, memory_limit=memory_limit,
        )
    )  # fmt: skip


def stream(  # noqa: PLR0913  # as load_file
    file_uri: str,
    device: str | torch.device = "cpu",
    region: str | None = None,
    *,
    tensors: Tensors = None,
    shard: Shard | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | Report | None = None,
    timeout: float | timedelta | None = None,
    cancel: threading.Event | None = None,
    cache: Cache = "node",
    verify: Verify = "size",
    memory_limit: int | None = None,
) -> Generator[tuple[str, torch.Tensor], None, None]:
    """Yield `(name, tensor)` as tensors arrive, which is nearly the order of the file.

    Arguments are those of `load_file`, but for `memory_limit`: so many bytes of tensors may have been read and not yet
    been let go by the loop; reading waits for it. It must hold the largest tensor and one chunk of 8 MiB.
    `close()` ends the load.
    """
    ask = _ask(
        file_uri, device, region,
        tensors=tensors, shard=shard, dtype=dtype, progress=progress, timeout=timeout, cancel=cancel,
        cache=cache, verify=verify, memory_limit=memory_limit,
    )  # fmt: skip
    return loading.stream(ask)


def load_into(  # noqa: PLR0913  # as load_file
    module: torch.nn.Module,
    file_uri: str,
    device: str | torch.device = "cpu",
    region: str | None = None,
    *,
    tensors: Tensors = None,
    shard: Shard | None = None,
    dtype: torch.dtype | None = None,
    strict: bool = True,
    progress: bool | Report | None = None,
    timeout: float | timedelta | None = None,
    cancel: threading.Event | None = None,
    cache: Cache = "node",
    verify: Verify = "size",
    memory_limit: int | None = None,
) -> None:
    """Load a module's parameters and buffers by their names.

    Arguments are those of `load_file`: `tensors` chooses among the names, in the module as in the file, and leaves the
    rest of both alone; with `shard`, the module's tensors have the shapes of the rank's parts.

    Those on the meta device become the loaded tensors themselves, on `device` and with the file's dtype (or `dtype`);
    the others keep their memory, dtype and device and get the values. Tied parameters stay tied. Names and shapes are
    compared before the first byte is read, and the error lists what does not fit; with `strict=False` names may be
    missing on either side. A load that fails later leaves the module partly loaded.
    """
    ask = _ask(
        file_uri, device, region,
        tensors=tensors, shard=shard, dtype=dtype, progress=progress, timeout=timeout, cancel=cancel,
        cache=cache, verify=verify, memory_limit=memory_limit,
    )  # fmt: skip
    load_module(ask, module, strict=strict)


def _ask(  # noqa: PLR0913  # the arguments of load_file
    file_uri: str,
    device: str | torch.device,
    region: str | None,
    *,
    tensors: Tensors,
    shard: Shard | None,
    dtype: torch.dtype | None,
    progress: bool | Report | None,
    timeout: float | timedelta | None,
    cancel: threading.Event | None,
    cache: Cache,
    verify: Verify,
    memory_limit: int | None,
) -> loading.Ask:
    if verify != "size":
        raise ValueError(f"verify={verify!r}: 'size' is known")
    if cache not in ("node", None):
        raise ValueError(f"cache={cache!r}: 'node' and None are known")
    return loading.Ask(
        uri=file_uri,
        device=torch.device(device),
        origin=Origin(region=region, cache=cache),
        tensors=tensors,
        shard=shard,
        dtype=dtype,
        progress=progress,
        timeout=timeout,
        cancel=cancel,
        memory_limit=memory_limit,
    )
