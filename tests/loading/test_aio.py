"""Loading in an event loop: the same bytes, the loop goes on meanwhile, and a cancelled task leaves nothing."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import get_type_hints

import pytest

from loaders.safetensors import aio
from loaders.safetensors import torch as blocking
from loaders.safetensors.errors import LoadCancelled, UnknownTensor
from tests.loading import files
from tests.loading.needs_torch import torch
from tests.loading.reference import assert_same, reference
from tests.loading.servers import RangeServer
from tests.loading.shape import Shape

MiB = 1 << 20
SLOW = Shape(bandwidth=1e6)
"""Bytes per second and connection: a load of tens of MiB takes seconds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    files.write_file(folder / "model.safetensors", files.transformer(layers=2, width=128))
    files.write_file(folder / "big.safetensors", {f"t{n}": files.Kind(dtype="U8", shape=(2 * MiB,)) for n in range(20)})
    return folder


def threads() -> set[threading.Thread]:
    """Return the threads of loads."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("weights")}


async def test_every_byte_is_there_and_the_loop_goes_on_meanwhile(folder: Path, server: RangeServer) -> None:
    server.shape(Shape(first_byte=0.2))
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    heart = asyncio.create_task(beat())
    found = await aio.load_file(server.url("model.safetensors"), cache=None)
    heart.cancel()
    assert beats > 10
    assert_same(found, reference(folder / "model.safetensors"))
    assert threads() == set()


async def test_a_stream_gives_every_tensor_once(folder: Path, server: RangeServer) -> None:
    pairs = [pair async for pair in aio.stream(server.url("model.safetensors"), cache=None)]
    assert len(pairs) == len(dict(pairs))
    assert_same(dict(pairs), reference(folder / "model.safetensors"))
    assert threads() == set()


async def test_a_stream_that_is_closed_early_ends_its_load(server: RangeServer) -> None:
    server.shape(SLOW)
    began = time.monotonic()
    async with aclosing(aio.stream(server.url("big.safetensors"), cache=None)) as tensors:
        async for name, tensor in tensors:
            assert (name[0], tensor.nbytes) == ("t", 2 * MiB)
            break
    assert threads() == set()
    left = time.monotonic() - began
    assert server.counters().body < 40 * MiB, f"it was read to its end in {left:.1f} s"


@pytest.mark.parametrize("how", ["load_file", "stream"])
async def test_a_cancelled_task_ends_its_load_first(server: RangeServer, how: str) -> None:
    server.shape(SLOW)

    async def load() -> None:
        if how == "load_file":
            await aio.load_file(server.url("big.safetensors"), cache=None)
        else:
            async for _ in aio.stream(server.url("big.safetensors"), cache=None):
                pass

    task = asyncio.create_task(load())
    while not server.counters().ranges:
        await asyncio.sleep(0.01)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 3
    assert threads() == set()


async def test_a_task_that_is_cancelled_twice_does_not_hold_the_loop() -> None:
    cancel, begun = threading.Event(), threading.Event()

    def load_that_notices_late() -> None:
        begun.set()
        cancel.wait()
        time.sleep(0.5)

    async def load() -> None:
        with ThreadPoolExecutor(1, "weights") as thread:
            await aio._on(thread, cancel, load_that_notices_late)

    task = asyncio.create_task(load())
    while not begun.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    longest = 0.0
    while not task.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - before)
    assert task.cancelled()
    assert longest < 0.4
    assert threads() == set()


async def test_the_caller_s_own_event_cancels_too(server: RangeServer) -> None:
    server.shape(SLOW)
    cancel = threading.Event()
    asyncio.get_running_loop().call_later(0.2, cancel.set)
    with pytest.raises(LoadCancelled):
        await aio.load_file(server.url("big.safetensors"), cache=None, cancel=cancel)


async def test_a_module_is_loaded_and_errors_are_the_same(folder: Path) -> None:
    path = folder / "model.safetensors"
    with pytest.raises(UnknownTensor):
        await aio.load_file(str(path), tensors="nothing.*")
    state = blocking.load_file(str(path), tensors="layers.0.norm.weight")
    module = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([torch.nn.ModuleDict({"norm": torch.nn.RMSNorm(128)})])}
    )
    await aio.load_into(module, str(path), strict=False)
    (loaded,) = module.state_dict().values()
    assert torch.equal(loaded, state["layers.0.norm.weight"].to(loaded.dtype))


@pytest.mark.parametrize("name", aio.__all__)
def test_the_arguments_are_those_of_the_blocking_functions(name: str) -> None:
    wanted = inspect.signature(getattr(blocking, name)).parameters
    keywords = {key for key, found in wanted.items() if found.kind is inspect.Parameter.KEYWORD_ONLY}
    positional = [key for key in wanted if key not in keywords]
    found = inspect.signature(getattr(aio, name)).parameters
    assert [key for key in found if key != "options"] == positional
    options = aio.IntoOptions if name == "load_into" else aio.LoadOptions
    assert set(get_type_hints(options)) == keywords
