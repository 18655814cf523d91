"""The ring and device arenas, with a device that copies late and in its own time."""

from __future__ import annotations

import contextlib
import random
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from loaders.safetensors import loading
from loaders.safetensors.arena import DeviceLanding
from loaders.safetensors.errors import LoadCancelled, LoadError
from loaders.safetensors.host import Target
from loaders.safetensors.layout import Layout
from loaders.safetensors.loading import Ask, bring, prepared
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.staging import SLOT_BYTES, Ring
from loaders.safetensors.torch import load_file
from tests.loading import files
from tests.loading.needs_torch import torch
from tests.loading.reference import assert_same, reference


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device, self.passed = device, threading.Event()

    def done(self) -> bool:
        return self.passed.is_set()

    def wait(self) -> None:
        self.device.run_until(self)


class FakeDevice:
    """Copies when somebody waits or its seed says so: until then the slot's bytes must stay what they were."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lock = threading.RLock()
        self.queue: list[tuple[memoryview, torch.Tensor, FakeEvent]] = []
        self.most_queued = 0

    def take(self, size: int) -> torch.Tensor:
        return torch.full((size,), 0xEE, dtype=torch.uint8)

    def copy(self, source: memoryview, target: torch.Tensor) -> FakeEvent:
        assert len(source) == len(target)
        event = FakeEvent(self)
        with self.lock:
            self.queue.append((source, target, event))
            self.most_queued = max(self.most_queued, len(self.queue))
            if self.random.random() < 0.3:
                self.run(self.random.randint(1, len(self.queue)))
        return event

    def cast(self, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        with self.lock:
            self.run(len(self.queue))
            return stored.to(dtype)

    def run(self, count: int) -> None:
        for source, target, event in self.queue[:count]:
            target.copy_(torch.frombuffer(source, dtype=torch.uint8))
            event.passed.set()
        del self.queue[:count]

    def run_until(self, event: FakeEvent) -> None:
        with self.lock:
            while not event.done():
                self.run(1)


def ring_of(slots: int) -> Ring:
    return Ring([memoryview(bytearray(SLOT_BYTES)) for _ in range(slots)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    files.write_file(folder / "dtypes.safetensors", files.many_dtypes())
    files.write_file(folder / "small.safetensors", files.many_small(1000))
    files.write_file(folder / "big.safetensors", files.big((24 << 20) + 77))
    return folder


def land(path: Path, device: FakeDevice, ring: Ring, **wants: object) -> dict[str, torch.Tensor]:
    """Load as `load_file` does to a device, but to the fake one."""
    ask = Ask(uri=str(path), device=torch.device("cpu"), **wants)  # type: ignore[arg-type]
    interrupt = Interrupt()
    with prepared(ask, interrupt) as job:
        landing = DeviceLanding(job.targets, job.layout, device, ring)
        found = {job.names[number]: landing.tensor(number) for number in bring(ask, job, interrupt, landing)}
        landing.settle()
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["dtypes", "small", "big"])
def test_every_byte_arrives_however_late_the_copies_are(folder: Path, name: str, seed: int) -> None:
    device, ring = FakeDevice(seed), ring_of(3)
    path = folder / f"{name}.safetensors"
    assert_same(land(path, device, ring), reference(path))
    assert not device.queue
    assert ring.free == 3


def test_a_slot_is_not_used_again_before_its_copy_is_done(folder: Path) -> None:
    """The mutation that this catches: giving slots back without their event."""

    class Forgetful(Ring):
        def give_back(self, number: int, event: object) -> None:
            super().give_back(number, None)

    path = folder / "big.safetensors"
    device = FakeDevice(1)
    device.random.random = lambda: 1.0  # type: ignore[method-assign]  # never copies by itself
    forgetful = Forgetful([memoryview(bytearray(SLOT_BYTES)) for _ in range(3)])
    wrong = land(path, device, forgetful)
    device.run(len(device.queue))
    with pytest.raises(AssertionError):
        assert_same(wrong, reference(path))
    lazy = FakeDevice(1)
    lazy.random.random = lambda: 1.0  # type: ignore[method-assign]
    assert_same(land(path, lazy, ring_of(3)), reference(path))
    assert lazy.most_queued <= 3


def test_a_stream_hands_over_what_is_in_place_and_lets_go_of_what_it_has_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    files.write_file(path, {f"t{number:02}": files.Kind(dtype="U8", shape=(1 << 20,)) for number in range(12)})
    device, taken = FakeDevice(3), list[weakref.ref[torch.Tensor]]()
    device.random.random = lambda: 1.0  # type: ignore[method-assign]  # copies only when somebody waits for it
    take = device.take

    def noted(size: int) -> torch.Tensor:
        arena = take(size)
        taken.append(weakref.ref(arena))
        return arena

    @contextlib.contextmanager
    def landing_for(_: object, targets: Sequence[Target], layout: Layout) -> Iterator[DeviceLanding]:
        landing = DeviceLanding(targets, layout, device, ring_of(3))
        yield landing
        landing.settle()

    monkeypatch.setattr(device, "take", noted)
    monkeypatch.setattr(loading, "landing_for", landing_for)
    monkeypatch.setattr(loading, "STREAM_BLOCK_BYTES", 2 << 20)
    expected, most = reference(path), 0
    ask = Ask(uri=str(path), device=torch.device("cpu"), memory_limit=4 << 20)
    for name, tensor in loading.stream(ask):
        assert_same({name: tensor.clone()}, {name: expected.pop(name)})
        most = max(most, sum(arena() is not None for arena in taken))
    assert not expected
    assert len(taken) >= 6
    assert most <= 4


def test_parts_and_casts_arrive_too(folder: Path) -> None:
    path = folder / "small.safetensors"
    wants = {"tensors": "layers.1?.*", "shard": (1, 2, {"*": 1}), "dtype": torch.float32}
    expected = load_file(str(path), **wants)
    found = land(path, FakeDevice(2), ring_of(2), **wants)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) or tensor.isnan().any() for name, tensor in expected.items())


def test_a_thread_that_waits_for_a_slot_sees_that_the_load_was_broken_off() -> None:
    ring, interrupt = ring_of(1), Interrupt()
    number = ring.take(interrupt)
    threading.Timer(0.1, interrupt.fire, [LoadCancelled("enough")]).start()
    with pytest.raises(LoadCancelled):
        ring.take(interrupt)
    ring.give_back(number, None)
    assert ring.free == 1


def test_a_device_that_is_not_there_is_said_so(folder: Path) -> None:
    path = str(folder / "dtypes.safetensors")
    with pytest.raises(LoadError, match="cpu and cuda are known"):
        load_file(path, device="mps")
    if not torch.cuda.is_available():
        with pytest.raises(LoadError, match="finds none"):
            load_file(path, device="cuda")
