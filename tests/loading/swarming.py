"""Nodes that share weights, for tests: real servers, real sockets, real caches, and one tracker in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from loaders.safetensors import chunk_server
from loaders.safetensors.cache import Gone
from loaders.safetensors.cache_content import Content
from loaders.safetensors.cache_read import ReadThrough
from loaders.safetensors.cache_store import Store
from loaders.safetensors.chunk_server import ChunkServer
from loaders.safetensors.peers import Node
from loaders.safetensors.sources.http import HttpFile
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.tracker import Tracker, TrackerLost

HELD_UP = {"silent": (0, 60.0), "silent in the middle": (1024, 60.0), "slow": (50_000, 0.4)}
"""Bytes that a server sends at a time, and seconds that it waits after them. `silent` accepts, and says nothing."""


class Locked:
    """A tracker called by one thread at a time, as an actor is. `lost` makes it unreachable."""

    def __init__(self) -> None:
        self.tracker, self.lock, self.lost = Tracker(), threading.Lock(), False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if self.lost:
                raise TrackerLost("gone")
            with self.lock:
                return getattr(self.tracker, name)(*arguments)

        return call


class Machine:
    """One node with its own cache."""

    def __init__(self, folder: Path, tracker: Locked, number: int, cap: int) -> None:
        self.store = Store(folder / str(number), cap)
        self.node = Node(self.store, tracker, f"node{number}", f"127.0.0.{10 + number}")

    def open(self, url: str) -> ReadThrough:
        origin = HttpFile(url, Interrupt())
        return self.through(Content(uri=url, etag=origin.version, size=origin.size), origin)

    def through(self, content: Content, origin: HttpFile | Gone) -> ReadThrough:
        entry = self.store.open(content, 0)
        assert entry is not None
        return ReadThrough(self.store, entry, origin, self.node)

    def load(self, url: str) -> bytes:
        return self.whole(self.open(url))

    def read(self, content: Content, origin: HttpFile | Gone) -> bytes:
        return self.whole(self.through(content, origin))

    def whole(self, source: ReadThrough) -> bytes:
        return self.ranges(source, [(0, source.size)])[0]

    def ranges(self, source: ReadThrough, wanted: Iterable[tuple[int, int]]) -> list[bytes]:
        """Read these ranges, announced before as a load does, and close the source."""
        try:
            source.expect(wanted)
            found = []
            for start, stop in wanted:
                into = memoryview(bytearray(stop - start))
                source.read_into(start, into, Interrupt())
                found.append(bytes(into))
            return found
        finally:
            source.close()

    @property
    def sent(self) -> int:
        assert self.node.server is not None
        return self.node.server.sent


class HoldUp:
    """Holds up the servers of some nodes, as `HELD_UP` says, until it is over."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._how: dict[ChunkServer | None, tuple[int, float]] = {}
        self._sending: dict[int, tuple[int, float]] = {}
        self._get, self._send = chunk_server.Handler.do_GET, os.sendfile

    def __call__(self, machine: Machine, how: str) -> None:
        self._how[machine.node.server] = HELD_UP[how]

    def get(self, handler: chunk_server.Handler) -> None:
        piece, pause = self._how.get(handler.server, (1, 0.0))
        if not piece:
            self.over.wait(pause)
        number = handler.connection.fileno()
        if pause:
            self._sending[number] = (piece, pause)
            handler.wfile = Trickle(handler.wfile, piece, lambda: self.over.wait(pause))  # type: ignore[assignment]
        try:
            self._get(handler)
        finally:
            self._sending.pop(number, None)

    def send(self, out: int, source: int, offset: int, count: int) -> int:
        piece, pause = self._sending.get(out, (count, 0.0))
        sent = self._send(out, source, offset, min(count, max(1, piece)))
        self.over.wait(pause)
        return sent


class Trickle:
    """Writes a little at a time. Of the answer's head nothing is held back: that would be silence."""

    def __init__(self, stream: Any, piece: int, wait: Callable[[], object]) -> None:
        self.stream, self.piece, self.wait = stream, max(1, piece), wait

    def write(self, content: Any) -> int:
        for at in range(0, len(content), self.piece):
            self.stream.write(content[at : at + self.piece])
            if len(content) > self.piece:
                self.wait()
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
