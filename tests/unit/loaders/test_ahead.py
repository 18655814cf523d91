"""Memory that is asked for while an answer is on its way, and right before bytes are written to it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from loaders.safetensors.sources import ahead
from loaders.safetensors.sources.ahead import STEP, Ahead, as_it_is, shifted
from loaders.safetensors.sources.http import HttpFile
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.local import LocalFile

SIZE = 3 * STEP + 5
CONTENT = os.urandom(SIZE)
FIRST = 7
"""Where the read begins in the file: what is asked for is part of a buffer, not of the file."""


class Touched:
    """Notes what memory was asked for; `all` is set when that is the whole buffer, in order and without a gap."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: list[tuple[int, int]] = []
        self.all = threading.Event()

    def __call__(self, start: int, stop: int) -> None:
        assert start == (self.parts[-1][1] if self.parts else 0)
        assert start < stop <= self.size
        self.parts.append((start, stop))
        if stop == self.size:
            self.all.set()

    @property
    def there(self) -> int:
        return self.parts[-1][1] if self.parts else 0


@contextmanager
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    turns = threading.Semaphore(1)
    monkeypatch.setattr(ahead, "_meanwhile", turns)
    yield turns


def test_memory_is_there_before_it_is_written_and_at_most_a_step_more() -> None:
    touched = Touched(SIZE)
    memory = Ahead(touched, SIZE)
    for at in range(0, SIZE, 1000):
        reached = memory.until(at + 1)
        assert at < reached == touched.there <= at + STEP
    memory.until(SIZE)
    assert touched.all.is_set()
    assert len(touched.parts) == 4


def test_getting_memory_ends_as_soon_as_the_answer_comes() -> None:
    touched, looks = Touched(SIZE), [False, False, True]
    memory = Ahead(touched, SIZE)
    memory.meanwhile(lambda _: looks.pop(0))
    assert looks == []
    assert touched.there == 2 * STEP
    memory.until(SIZE)
    assert touched.all.is_set()


def test_an_answer_that_is_there_already_is_not_held_up() -> None:
    touched = Touched(SIZE)
    Ahead(touched, SIZE).meanwhile(lambda _: True)
    assert touched.parts == []


def test_memory_that_is_there_is_not_asked_for_and_nothing_is_waited_for() -> None:
    looks: list[float] = []
    memory = Ahead(as_it_is, SIZE)
    memory.meanwhile(looks.append)
    assert looks == []
    assert memory.until(1) == SIZE
    assert shifted(as_it_is, 5) is as_it_is


def test_while_others_get_memory_this_one_waits_for_its_answer_and_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    touched, pauses = Touched(SIZE), []
    with one_at_a_time(monkeypatch) as turns:
        turns.acquire()

        def has_come(pause: float) -> bool:
            pauses.append(pause)
            if len(pauses) == 3:
                assert touched.parts == []
                turns.release()
            return False

        Ahead(touched, SIZE).meanwhile(has_come)
        assert touched.all.is_set()
        assert pauses[:3] == [0.0, ahead.LOOKS_AFTER, ahead.LOOKS_AFTER]
        assert turns.acquire(blocking=False), "the next one may"


def head_of(lines: BinaryIO) -> Iterator[str]:
    """Yield a request's lines; none once the other side has closed the connection."""
    while line := lines.readline().decode().strip():
        yield line + "\n"


class Origin:
    """Answers requests for ranges, one connection at a time; the read itself once all of its memory was asked for."""

    def __init__(self, touched: Touched, *, framed: bool = False, breaks: bool = False) -> None:
        self.touched, self.framed, self.breaks = touched, framed, breaks
        self.asked = threading.Event()
        self.in_time: list[bool] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/w"

    def serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            with contextlib.suppress(ConnectionError), peer, peer.makefile("rb") as lines:
                while (request := "".join(head_of(lines))) and self.answer(peer, request):
                    pass

    def answer(self, peer: socket.socket, request: str) -> bool:
        first, last = (int(text) for text in request.partition("bytes=")[2].split()[0].split("-"))
        body = (b"!" * FIRST + CONTENT)[first : last + 1]
        if first == FIRST:
            self.asked.set()
            self.in_time.append(self.touched.all.wait(20))
        head = f"HTTP/1.1 206 Partial\r\nContent-Range: bytes {first}-{first + len(body) - 1}/{FIRST + SIZE}\r\n"
        head += 'ETag: "a"\r\n'
        if self.framed:
            head, body = head + "Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            head += f"Content-Length: {len(body)}\r\n"
        broken = self.breaks and first == FIRST
        peer.sendall(head.encode() + b"\r\n" + (body[: len(body) // 2] if broken else body))
        return not broken

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(5)


@pytest.mark.parametrize("framed", [False, True])
def test_memory_is_got_after_the_request_is_sent_and_before_its_answer_comes(framed: bool) -> None:
    touched = Touched(SIZE)
    origin = Origin(touched, framed=framed)
    file = HttpFile(origin.url, Interrupt())
    into = memoryview(bytearray(SIZE))
    sent_before = []

    def touch(start: int, stop: int) -> None:
        sent_before.append(origin.asked.wait(20))
        touched(start, stop)

    file.read_into(FIRST, into, Interrupt(), touch)
    file.close()
    origin.close()
    assert all(sent_before)
    assert origin.in_time == [True]
    assert into == CONTENT


def test_what_is_resumed_is_asked_for_from_where_it_broke() -> None:
    parts: list[tuple[int, int]] = []
    touched = Touched(SIZE)

    def touch(start: int, stop: int) -> None:
        parts.append((start, stop))
        if not touched.all.is_set():
            touched(start, stop)

    origin = Origin(touched, breaks=True)
    file = HttpFile(origin.url, Interrupt())
    into = memoryview(bytearray(SIZE))
    file.read_into(FIRST, into, Interrupt(), touch)
    file.close()
    origin.close()
    again = parts[len(touched.parts) :]
    assert again[0][0] == SIZE // 2
    assert again[-1][1] == SIZE
    assert into == CONTENT


def test_memory_for_a_local_file_is_got_a_step_before_the_step_is_read(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"!" * FIRST + CONTENT)
    into = memoryview(bytearray(SIZE))
    touched = Touched(SIZE)

    def touch(start: int, stop: int) -> None:
        touched(start, stop)
        assert into[:start] == CONTENT[:start]
        assert not any(into[start:stop])

    file = LocalFile(str(tmp_path / "w"))
    file.read_into(FIRST, into, Interrupt(), touch)
    file.close()
    assert touched.all.is_set()
    assert into == CONTENT
