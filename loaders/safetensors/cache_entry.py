"""One content on this node: a sparse file, and a record per chunk that says what its bytes must be.

A chunk is written first and recorded afterwards, so a writer that dies in between leaves nothing that counts as there.
The record holds a checksum of the bytes and a seal over that checksum; both are checked before the bytes are handed
out. Torn writes, a power cut that kept the record but not the data, and bad memory all end the same way: the chunk is
fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash

from loaders.safetensors.cache_claims import Claims
from loaders.safetensors.cache_content import Content
from loaders.safetensors.cache_signs import Signs
from loaders.safetensors.sources.ahead import Ahead, Touch, as_it_is

RECORD = struct.Struct("<QQ")
LOCKED_FOR = 10.0
"""Seconds after which a lock that is held for moments only is no longer waited for: its holder was stopped."""

Wait = Callable[[float], object]
"""Sleeps so many seconds; may raise where nobody wants to wait any more."""

CHECKED_AT_A_TIME = 4
"""Chunks that are read whole because a part of them is wanted: each is memory beyond the result's."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoRoom(Exception):
    """The disk or tmpfs below the cache is full."""


def seal(chunk: int, checksum: int) -> int:
    """Bind a checksum to its place: a record of zeros, half a record or one of another chunk is none."""
    return xxhash.xxh3_64_intdigest(struct.pack("<QQ", chunk, checksum), seed=1)


class Entry:
    """An opened content. Used from many threads; while it is open its bytes are not evicted.

    A thread may hang in a slow read while another one closes it. The files are closed when the last one is through:
    their numbers may be those of other files right afterwards.
    """

    def __init__(self, folder: Path, content: Content) -> None:
        self.content = content
        self.folder = folder
        with contextlib.ExitStack() as opened:
            self._lease = _opened(folder / "lease", os.O_RDONLY, opened)
            lock_in_time(self._lease, fcntl.LOCK_SH, time.sleep)
            self._data = _opened(folder / "data", os.O_RDWR, opened)
            self._records = _opened(folder / "records", os.O_RDWR, opened)
            self._signs = Signs(folder / "signs")
            opened.callback(self._signs.close)
            self._claims = Claims(folder / "claims", content.chunks, self._signs)
            opened.pop_all()
        self._checked: set[int] = set()
        self._unreadable: set[int] = set()
        self._lock = threading.Lock()
        self._scratch = threading.BoundedSemaphore(CHECKED_AT_A_TIME)
        self._users, self._closing = 0, False
        self._process = os.getpid()

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        """Keep the files open for the block; raise `OSError` if they are closed already."""
        with self._lock:
            if self._closing:
                raise OSError(errno.EBADF, "this content was closed", str(self.folder))
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                last = self._closing and not self._users
            if last:
                self._close_files()

    def is_in(self, folder: Path) -> bool:
        """Whether what was opened is still what the folder holds: it may have been evicted in between."""
        try:
            with self._open():
                return os.path.samestat(os.fstat(self._lease), os.stat(folder / "lease"))
        except FileNotFoundError:
            return False

    @property
    def identity(self) -> int:
        """Tells it from one of the same content that was here before and was evicted."""
        with self._open():
            return os.fstat(self._lease).st_ino

    def trust(self, checked: set[int]) -> None:
        """Take these chunks as checked, and add to them those that are checked from now on."""
        self._checked = checked

    def checksum(self, chunk: int) -> int | None:
        """Return the recorded checksum of a chunk that is there, `None` for one that is not."""
        record = self._recorded(chunk, 1)
        if len(record) < RECORD.size or chunk in self._unreadable:
            return None
        checksum, sealed = RECORD.unpack(record)
        return checksum if sealed == seal(chunk, checksum) else None

    def present(self) -> list[int]:
        """The chunks that are there."""
        records = self._recorded(0, self.content.chunks)
        whole = len(records) - len(records) % RECORD.size
        found = enumerate(RECORD.iter_unpack(records[:whole]))
        there = [chunk for chunk, (checksum, sealed) in found if sealed == seal(chunk, checksum)]
        return [chunk for chunk in there if chunk not in self._unreadable]

    def _recorded(self, chunk: int, count: int) -> bytes:
        """Return the records from one chunk on; none where the disk does not give them."""
        try:
            with self._open():
                return os.pread(self._records, count * RECORD.size, chunk * RECORD.size)
        except OSError:
            return b""

    def complete(self) -> bool:
        """Whether every chunk is there."""
        return len(self.present()) == self.content.chunks

    def read(self, chunk: int, start: int, into: memoryview, touch: Touch = as_it_is) -> bool:
        """Fill `into` from a chunk; False if it is not there, cannot be read, or is not what was recorded."""
        checksum = self.checksum(chunk)
        if checksum is None:
            return False
        whole = start == 0 and len(into) == self.content.length_of(chunk)
        if whole:
            good = self._fill(chunk, 0, into, touch) and xxhash.xxh3_64_intdigest(into) == checksum
        else:
            good = self._check(chunk, checksum) and self._fill(chunk, start, into, touch)
        if good:
            self._checked.add(chunk)
        else:
            self.forget(chunk)
        return good

    def _check(self, chunk: int, checksum: int) -> bool:
        """Check a chunk of which only a part is wanted, once per opening."""
        if chunk in self._checked:
            return True
        with self._scratch:
            scratch = memoryview(bytearray(self.content.length_of(chunk)))
            return self._fill(chunk, 0, scratch) and xxhash.xxh3_64_intdigest(scratch) == checksum

    def _fill(self, chunk: int, start: int, into: memoryview, touch: Touch = as_it_is) -> bool:
        at, ahead = 0, Ahead(touch, len(into))
        try:
            with self._open():
                while at < len(into):
                    count = os.preadv(
                        self._data, [into[at : ahead.until(at + 1)]], chunk * self.content.chunk_size + start + at
                    )
                    if count == 0:
                        return False
                    at += count
        except OSError:  # the disk below the cache is failing: the origin is not
            return False
        return True

    def write(self, chunk: int, content: memoryview, checksum: int | None = None) -> int:
        """Keep a fetched chunk, data first and record afterwards; return its checksum. Raise `NoRoom`, or `OSError`."""
        found = xxhash.xxh3_64_intdigest(content) if checksum is None else checksum
        at = 0
        try:
            with self._open():
                while at < len(content):
                    at += os.pwrite(self._data, content[at:], chunk * self.content.chunk_size + at)
                os.pwrite(self._records, RECORD.pack(found, seal(chunk, found)), chunk * RECORD.size)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise NoRoom(f"no room left for the weight cache in {self.folder.parent}: {error.strerror}") from error
            raise
        self._unreadable.discard(chunk)
        self._checked.add(chunk)
        return found

    def forget(self, chunk: int) -> None:
        """Take a chunk's record away, so that it is fetched again."""
        self._checked.discard(chunk)
        try:
            with self._open():
                os.pwrite(self._records, bytes(RECORD.size), chunk * RECORD.size)
        except OSError:
            self._unreadable.add(chunk)

    def claim(self, chunk: int, *, stand_in: bool = False) -> contextlib.AbstractContextManager[bool]:
        """Try to be the one on this node who fetches this chunk, or who stands in for one that is stopped."""
        return self._claims.attempt(chunk, stand_in=stand_in)

    def filling(self) -> contextlib.AbstractContextManager[None]:
        """Show within the block that who fills this content for the whole node is alive."""
        return self._signs.showing(2 * self.content.chunks)

    def filler_is_stopped(self) -> bool:
        """Tell whether who fills this content for the whole node has shown itself, and does so no more."""
        return self._signs.stopped(2 * self.content.chunks)

    def descriptor(self) -> int:
        """The data file, for sending chunks without copying them."""
        return self._data

    def close(self) -> None:
        """Give the lease back: from now on the content may be evicted."""
        self._claims.close()
        self._signs.close()
        with self._lock:
            first, self._closing = not self._closing, True
            last = first and not self._users
        if last:
            self._close_files()

    def _close_files(self) -> None:
        records, data, lease = self._records, self._data, self._lease
        self._records = self._data = self._lease = -1
        for descriptor in (records, data):
            os.close(descriptor)
        unlock_and_close(lease, self._process)

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(path: Path, flags: int, opened: contextlib.ExitStack) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor


def unlock_and_close(descriptor: int, process: int) -> None:
    """Let go of a lock that this process took: a child that was forked meanwhile has the file open and would keep it.

    In such a child only the file is closed: the lock is its parent's.
    """
    try:
        if process == os.getpid():
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def lock_in_time(descriptor: int, kind: int, wait: Wait) -> None:
    """Get a lock that others hold for moments; raise `TimeoutError` where one holds it for long: it was stopped."""
    until, pause = time.monotonic() + LOCKED_FOR, 0.001
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds the weight cache's lock") from None
        else:
            return
        wait(pause)
        pause = min(0.05, pause * 2)


@contextlib.contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX, wait: Wait = time.sleep) -> Iterator[bool]:
    """Hold a lock file; with `LOCK_NB` tells whether it was got, else waits, but not for ever."""
    process = os.getpid()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            if kind & fcntl.LOCK_NB:
                fcntl.flock(descriptor, kind)
            else:
                lock_in_time(descriptor, kind, wait)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        unlock_and_close(descriptor, process)
