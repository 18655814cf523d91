"""Fetching: stragglers are asked for again, nothing is written after the caller has it, errors end everything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from loaders.safetensors import fetch as fetching
from loaders.safetensors.errors import LoadError, SourceFailed
from loaders.safetensors.fetch import Fetch
from loaders.safetensors.plan import Chunk, Piece
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.ahead import Touch, as_it_is
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.streams import Streams

CONTENT = bytes(range(200))
STEP = 10
CHUNKS = [
    Chunk(file=0, start=at, stop=at + STEP, pieces=(Piece(tensor=0, at=0, to=at, count=STEP),))
    for at in range(0, len(CONTENT), STEP)
]


@dataclass
class FakeSource:
    """Answers at once, but for the requests that `behave` holds up; counts how often each offset was asked for."""

    behave: Callable[[int, int, memoryview, Interrupt], None]
    hedged: bool = True
    uri: str = "fake://weights"
    size: int = len(CONTENT)
    version: str = "1"
    asked: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.streams = Streams(first=4, most=4, hedged=self.hedged)

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        with self.lock:
            self.asked[offset] = self.asked.get(offset, 0) + 1
            time_asked = self.asked[offset]
        self.behave(offset, time_asked, buffer, interrupt)
        interrupt.check()
        buffer[:] = CONTENT[offset : offset + len(buffer)]

    def close(self) -> None: ...


class FakeLanding:
    def __init__(self) -> None:
        self.memory = bytearray(len(CONTENT))

    def read(self, chunk: Chunk, source: Source, interrupt: Interrupt) -> None:
        source.read_into(chunk.start, memoryview(self.memory)[chunk.start : chunk.stop], interrupt)

    def put(self, chunk: Chunk, content: memoryview) -> None:
        self.memory[chunk.start : chunk.stop] = content

    def name(self, chunk: Chunk, offset: int) -> str:
        return f"t{chunk.start}"


def bring(source: FakeSource) -> tuple[FakeLanding, list[Chunk]]:
    landing = FakeLanding()
    return landing, list(Fetch(CHUNKS, [source], landing).landed(Interrupt(), lambda: None, 0.05))


def prompt(offset: int, time_asked: int, buffer: memoryview, interrupt: Interrupt) -> None:
    """Answer at once."""


def test_every_chunk_lands_once() -> None:
    source = FakeSource(prompt)
    landing, chunks = bring(source)
    assert landing.memory == CONTENT
    assert sorted(chunk.start for chunk in chunks) == [chunk.start for chunk in CHUNKS]
    assert set(source.asked.values()) == {1}


@pytest.mark.parametrize("straggling", [1, 2, 3])
def test_a_straggler_is_asked_for_again_and_the_first_answer_counts(straggling: int) -> None:
    def behave(offset: int, time_asked: int, buffer: memoryview, interrupt: Interrupt) -> None:
        if offset == 50 and time_asked <= straggling:
            interrupt.wait(60)

    source = FakeSource(behave)
    began = time.monotonic()
    landing, chunks = bring(source)
    assert time.monotonic() - began < 10
    assert landing.memory == CONTENT
    assert len(chunks) == len(CHUNKS)
    assert source.asked[50] > straggling, "once more than that where the answer comes late, as on a busy machine"


def test_a_straggler_that_fills_the_buffer_late_has_let_go_before_the_chunk_is_handed_over() -> None:
    released = threading.Event()

    def behave(offset: int, time_asked: int, buffer: memoryview, interrupt: Interrupt) -> None:
        if offset == 50 and time_asked == 1:
            while not interrupt.fired:
                time.sleep(0.01)
            time.sleep(0.3)
            buffer[:] = b"\xff" * len(buffer)
            released.set()

    landing = FakeLanding()
    for chunk in Fetch(CHUNKS, [FakeSource(behave)], landing).landed(Interrupt(), lambda: None, 0.05):
        if chunk.start == 50:
            assert released.is_set()
            assert landing.memory[50:60] == CONTENT[50:60]
    assert landing.memory == CONTENT


def test_a_source_that_is_not_hedged_is_asked_once() -> None:
    def behave(offset: int, time_asked: int, buffer: memoryview, interrupt: Interrupt) -> None:
        if offset == 50:
            interrupt.wait(1.0)

    source = FakeSource(behave, hedged=False)
    bring(source)
    assert source.asked[50] == 1


def test_the_first_chunk_is_asked_for_while_further_threads_are_still_to_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, in_time = threading.Event(), []

    class Late(threading.Thread):
        begun = 0

        def start(self) -> None:
            Late.begun += 1
            if Late.begun == 2:
                in_time.append(asked.wait(5))
            super().start()

    def behave(offset: int, time_asked: int, buffer: memoryview, interrupt: Interrupt) -> None:
        asked.set()

    monkeypatch.setattr("loaders.safetensors.fetch.threading.Thread", Late)
    landing, _ = bring(FakeSource(behave))
    assert in_time == [True]
    assert landing.memory == CONTENT


def test_an_error_ends_the_load_and_names_the_tensor() -> None:
    def behave(offset: int, time_asked: int, buffer: memoryview, interrupt: Interrupt) -> None:
        if offset == 50:
            raise SourceFailed("broken", uri="fake://weights", span=(50, 60))
        if offset > 50:
            interrupt.wait(60)

    began = time.monotonic()
    with pytest.raises(SourceFailed, match="tensor 't50', bytes 50-60: broken"):
        bring(FakeSource(behave))
    assert time.monotonic() - began < 5


def test_a_bug_in_a_thread_is_raised_as_it_is() -> None:
    def behave(offset: int, time_asked: int, buffer: memoryview, interrupt: Interrupt) -> None:
        if offset == 50:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bring(FakeSource(behave))


def test_an_interrupt_from_outside_ends_the_load_with_its_error() -> None:
    def behave(offset: int, time_asked: int, buffer: memoryview, interrupt: Interrupt) -> None:
        interrupt.wait(60)

    interrupt, before = Interrupt(), threading.active_count()
    threading.Timer(0.2, interrupt.fire, [LoadError("enough")]).start()
    with pytest.raises(LoadError, match="enough"):
        list(Fetch(CHUNKS, [FakeSource(behave)], FakeLanding()).landed(interrupt, lambda: None, 0.05))
    assert threading.active_count() <= before


def played(streams: Streams, rate: Callable[[int], float], *, chunks: int, cpu: float = 0.001) -> list[int]:
    """Let an origin serve chunks to so many streams as are wanted; `rate` is chunks per second for all of them."""
    now, wanted = 0.0, [streams.wanted]
    for _ in range(chunks):
        together = rate(streams.wanted)
        now += 1 / together
        streams.served(1 << 23, wall=streams.wanted / together, cpu=cpu, now=now)
        wanted.append(streams.wanted)
    return wanted


def test_where_reads_only_wait_there_are_soon_more_of_them() -> None:
    """Each connection gives the same: an origin with latency, or one that limits connections."""
    wanted = played(Streams(first=4, most=32), lambda streams: 10.0 * streams, chunks=60)
    assert wanted[-1] == 32
    assert wanted.index(32) <= 4 + 4 + 8 + 16


def test_where_more_of_them_bring_no_more_it_stays_at_few() -> None:
    """A machine that is busy with other things: reads wait for a core most of their time."""
    wanted = played(Streams(first=4, most=32), lambda streams: 40.0, chunks=400)
    assert max(wanted) == 8
    assert wanted.count(8) < 0.35 * len(wanted)


def test_what_was_busy_is_tried_again() -> None:
    streams = Streams(first=4, most=32)
    assert played(streams, lambda streams: 40.0, chunks=20)[-1] == 4
    assert played(streams, lambda streams: 10.0 * streams, chunks=120)[-1] == 32


def test_reads_that_keep_the_cores_busy_are_enough() -> None:
    assert max(played(Streams(first=2, most=32), lambda streams: 10.0 * streams, chunks=50, cpu=10.0)) == 2


def test_an_origin_that_pushes_back_gets_fewer_and_no_more_than_that() -> None:
    streams = Streams(first=32, most=32)
    for _ in range(3):
        streams.pushed_back()
    assert streams.wanted == 4
    assert max(played(streams, lambda streams: 10.0 * streams, chunks=200)) < 32
    assert fetching.MOST_REQUESTS > 2
