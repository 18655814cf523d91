"""When a connection that had idled is asked again: it was closed meanwhile, and nothing else has happened."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loaders.safetensors.chunk_server import CHECKSUM, RANGE_CHECKSUM, checksum_text
from loaders.safetensors.errors import LoadCancelled
from loaders.safetensors.peer_ranges import PeerRanges
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.wire import Broken

RIGHT = f"HTTP/1.1 206 x\r\nContent-Length: 4\r\n{RANGE_CHECKSUM}: {checksum_text(7)}\r\n\r\n1234"
SAID = {
    "right": RIGHT,
    "whole": RIGHT.replace(RANGE_CHECKSUM, CHECKSUM),
    "no checksum": "HTTP/1.1 206 x\r\nContent-Length: 4\r\n\r\n1234",
    "cut in its head": RIGHT[:20],
    "cut in its body": RIGHT[:-2],
    "nonsense": "SSH-2.0\r\n\r\n",
    "other length": RIGHT.replace("Content-Length: 4", "Content-Length: 3"),
    "refused": "HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n",
    "closed": "",
}


@contextmanager
def peer(*connections: str) -> Iterator[tuple[str, list[str]]]:
    """Answers each connection's requests as its words say, comma by comma, and closes it; tells what it was asked.

    `silent` says nothing until the block ends.
    """
    heard: list[str] = []
    over = threading.Event()

    def answer(connection: socket.socket, words: str) -> None:
        with connection:
            for word in words.split(","):
                if word == "closed":
                    return
                if not connection.recv(65536):
                    return
                heard.append(word)
                if word == "silent":
                    over.wait(30)
                    return
                connection.sendall(SAID[word].encode())

    def serve(listener: socket.socket) -> None:
        for words in connections:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection, words), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heard
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def ranges() -> Iterator[PeerRanges]:
    found = PeerRanges("ab" * 16, silence=1)
    yield found
    found.close()


def brought(ranges: PeerRanges, endpoint: str, interrupt: Interrupt | None = None) -> bool:
    into = memoryview(bytearray(4))
    with ranges.ask(endpoint, "secret", (8, 12), interrupt or Interrupt()) as offer:
        return offer.receive(into) and bytes(into) == b"1234" and offer.is_right(7)


def test_one_connection_brings_range_after_range(ranges: PeerRanges) -> None:
    with peer("right,whole,right") as (endpoint, heard):
        assert [brought(ranges, endpoint) for _ in range(3)] == [True] * 3
        assert heard == ["right", "whole", "right"]


@pytest.mark.parametrize("how", ["right", "right,closed", "right,cut in its head"])
def test_one_that_was_closed_while_it_idled_is_replaced(ranges: PeerRanges, how: str) -> None:
    with peer(how, "right") as (endpoint, heard):
        assert brought(ranges, endpoint)
        time.sleep(0.1)  # until the close has arrived
        assert brought(ranges, endpoint)
        assert heard[-1] == "right"


def test_one_that_idled_and_is_silent_is_waited_for_once(ranges: PeerRanges) -> None:
    with peer("right,silent", "right") as (endpoint, heard):
        assert brought(ranges, endpoint)
        began = time.monotonic()
        with pytest.raises(Broken, match="nothing came for 1 s"):
            brought(ranges, endpoint)
        assert time.monotonic() - began < 1.8
        assert heard == ["right", "silent"]
        assert brought(ranges, endpoint), "and not kept"


def test_those_that_idled_with_a_silent_one_are_not_tried(ranges: PeerRanges) -> None:
    with peer("right,silent", "right,silent", "right") as (endpoint, heard):
        asked = (endpoint, "secret", (8, 12), Interrupt())
        with ranges.ask(*asked) as one, ranges.ask(*asked) as other:
            assert one.receive(memoryview(bytearray(4)))
            assert other.receive(memoryview(bytearray(4)))
        with pytest.raises(Broken):
            brought(ranges, endpoint)
        assert brought(ranges, endpoint)
        assert heard == ["right", "right", "silent", "right"]


@pytest.mark.parametrize("how", ["cut in its body", "other length", "refused", "no checksum"])
def test_an_answer_is_never_asked_for_again_whatever_it_is(ranges: PeerRanges, how: str) -> None:
    with peer(f"right,{how}", "right") as (endpoint, heard):
        assert brought(ranges, endpoint)
        assert not brought(ranges, endpoint)
        assert heard == ["right", how]
        assert brought(ranges, endpoint)


def test_nonsense_is_no_answer_and_not_asked_for_again(ranges: PeerRanges) -> None:
    with peer("right,nonsense", "right") as (endpoint, heard):
        assert brought(ranges, endpoint)
        with pytest.raises(Broken, match="no HTTP answer"):
            brought(ranges, endpoint)
        assert heard == ["right", "nonsense"]


def test_a_fresh_one_that_is_closed_is_the_end(ranges: PeerRanges) -> None:
    with peer("closed", "right") as (endpoint, heard):
        with pytest.raises(Broken):
            brought(ranges, endpoint)
        assert heard == []


def test_whoever_asks_no_more_asks_nobody_anew(ranges: PeerRanges) -> None:
    """A connection that is cut by an interrupt looks as if the peer had closed it."""
    interrupt = Interrupt()
    with peer("right,silent", "right") as (endpoint, heard):
        assert brought(ranges, endpoint)
        threading.Timer(0.2, interrupt.fire, [LoadCancelled("enough")]).start()
        with pytest.raises(LoadCancelled):
            brought(ranges, endpoint, interrupt)
        assert heard == ["right", "silent"]
