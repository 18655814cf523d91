"""Connecting: the first address that answers, one limit for all, and an end as soon as nobody wants it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from loaders.safetensors.errors import LoadError
from loaders.safetensors.sources import connect as connecting
from loaders.safetensors.sources.connect import connect
from loaders.safetensors.sources.interrupt import Interrupt


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port of 127.0.0.1 that never answers: its queue is full, so the kernel drops what asks."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            asking = waiting.enter_context(socket.socket())
            asking.setblocking(False)
            asking.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


@contextlib.contextmanager
def answering() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def named(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """A host name with these ports of 127.0.0.1 as its addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_an_address_that_is_silent_or_refuses_does_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent() as dead, answering() as alive:
        named(monkeypatch, dead, closed(), alive)
        began = time.monotonic()
        with connect("weights.example", 80, Interrupt()) as found:
            assert found.getpeername()[1] == alive
            assert found.getblocking()
            assert found.gettimeout() is None
        assert time.monotonic() - began < 2


def test_all_addresses_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 0.4)
    with silent() as one, silent() as two, silent() as three:
        named(monkeypatch, one, two, three)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            connect("weights.example", 80, Interrupt())
        assert time.monotonic() - began < 2


def test_refusals_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, closed(), closed())
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        connect("weights.example", 80, Interrupt())
    assert time.monotonic() - began < 2


def test_an_interrupt_ends_an_attempt_and_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def hanging(host: str, *_: object, **options: object) -> object:
        if options.get("flags"):
            raise socket.gaierror
        let_go.wait(20)
        raise socket.gaierror("gone")

    with silent() as dead:
        for look_up in (None, hanging):
            if look_up is not None:
                monkeypatch.setattr(socket, "getaddrinfo", look_up)
            interrupt = Interrupt()
            threading.Timer(0.2, interrupt.fire, [LoadError("cancelled")]).start()
            began = time.monotonic()
            with pytest.raises(LoadError, match="cancelled"):
                connect("127.0.0.1" if look_up is None else "weights.example", dead, interrupt)
            assert time.monotonic() - began < 2
    let_go.set()


def test_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    make = socket.socket

    def counted(*arguments: int) -> socket.socket:
        made.append(make(*arguments))
        return made[-1]

    with silent() as dead, answering() as alive:
        named(monkeypatch, dead, closed(), alive)
        monkeypatch.setattr(socket, "socket", counted)
        found = connect("weights.example", 80, Interrupt())
    assert [each for each in made if each.fileno() >= 0] == [found]
    found.close()
