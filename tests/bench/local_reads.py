"""Ways to read a local file into fresh memory: `make bench ARGS=local-reads` prints a table of them.

Each measurement is a fresh process. Cold: the page cache has nothing of the file (which is looked at).
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import json
import mmap
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from loaders.safetensors.memory import HostBlock
from tests.bench.report import table, write

SIZE = int(os.environ.get("SIZE_MIB", "512")) << 20
ROUNDS = int(os.environ.get("ROUNDS", "7"))
CHUNK = 8 << 20
AHEAD = 4
LIBC = ctypes.CDLL(None, use_errno=True)
HEAD = ("way", "page cache", "median ms", "fastest ms", "CPU-s per GB")
Read = Callable[[int, memoryview, int], None]
"""Reads from a descriptor into memory, from an offset."""


def plain(descriptor: int, into: memoryview, offset: int) -> None:
    done = 0
    while done < len(into):
        done += os.preadv(descriptor, [into[done:]], offset + done)


def hinted(descriptor: int, into: memoryview, offset: int) -> None:
    """Ask for what comes next before reading this."""
    os.posix_fadvise(descriptor, offset, AHEAD * CHUNK, os.POSIX_FADV_WILLNEED)
    plain(descriptor, into, offset)


def sequential(descriptor: int, into: memoryview, offset: int) -> None:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    plain(descriptor, into, offset)


def threads(path: str, block: HostBlock, count: int, read: Read, flags: int = 0) -> None:
    """As the loader does it: chunk by chunk, each by the thread that first touches the chunk's memory."""
    descriptor = os.open(path, os.O_RDONLY | flags)

    def bring(start: int) -> None:
        stop = min(start + CHUNK, len(block.memory))
        block.touch(start, stop)
        read(descriptor, block.memory[start:stop], start)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        list(pool.map(bring, range(0, len(block.memory), CHUNK)))
    os.close(descriptor)


class Ring:
    """As much of io_uring as reading takes, by its system calls: one thread, many reads in the kernel at a time."""

    def __init__(self, depth: int) -> None:
        parameters = bytearray(120)
        buffer = (ctypes.c_char * len(parameters)).from_buffer(parameters)
        self.descriptor = LIBC.syscall(425, depth, buffer)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        entries, completions = struct.unpack_from("II", parameters)
        self._tail, self._mask, self._array = (struct.unpack_from("I", parameters, 40 + at)[0] for at in (4, 8, 24))
        self._head, self._end, self._cmask, self._cqes = (
            struct.unpack_from("I", parameters, 80 + at)[0] for at in (0, 4, 8, 20)
        )
        size = max(self._array + 4 * entries, self._cqes + 16 * completions)
        self._rings = mmap.mmap(self.descriptor, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=0)
        self._sqes = mmap.mmap(self.descriptor, 64 * entries, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=0x10000000)

    def _word(self, at: int, value: int | None = None) -> int:
        if value is not None:
            struct.pack_into("I", self._rings, at, value & 0xFFFFFFFF)
        return int(struct.unpack_from("I", self._rings, at)[0])

    def ask(self, descriptor: int, into: memoryview, offset: int) -> None:
        tail = self._word(self._tail)
        slot = tail & self._word(self._mask)
        address = ctypes.addressof(ctypes.c_char.from_buffer(into))
        read = struct.pack("<BBHiQQIIQ24x", 22, 0, 0, descriptor, offset, address, len(into), 0, len(into))
        self._sqes[64 * slot : 64 * slot + 64] = read
        self._word(self._array + 4 * slot, slot)
        self._word(self._tail, tail + 1)

    def wait(self, asked: int) -> list[int]:
        """Hand over so many new reads, wait for one at least, and return the lengths of those that have ended."""
        if LIBC.syscall(426, self.descriptor, asked, 1, 1, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        found, head = [], self._word(self._head)
        while head != self._word(self._end):
            wanted, got = struct.unpack_from("<Qi", self._rings, self._cqes + 16 * (head & self._word(self._cmask)))
            assert got == wanted, f"{got} bytes instead of {wanted}"
            found.append(got)
            head += 1
        self._word(self._head, head)
        return found


def uring(path: str, block: HostBlock, depth: int, flags: int) -> None:
    descriptor, ring = os.open(path, os.O_RDONLY | flags), Ring(depth)
    starts, flying, left = iter(range(0, len(block.memory), CHUNK)), 0, len(block.memory)
    while left:
        asked = 0
        while flying < depth and (start := next(starts, None)) is not None:
            stop = min(start + CHUNK, len(block.memory))
            block.touch(start, stop)
            ring.ask(descriptor, block.memory[start:stop], start)
            flying, asked = flying + 1, asked + 1
        for got in ring.wait(asked):
            flying, left = flying - 1, left - got
    os.close(descriptor)


WAYS: dict[str, Callable[[str, HostBlock], None]] = {
    "preadv, 2 threads": lambda path, block: threads(path, block, 2, plain),
    "preadv, 4 threads": lambda path, block: threads(path, block, 4, plain),
    "preadv, 8 threads": lambda path, block: threads(path, block, 8, plain),
    "preadv, 16 threads": lambda path, block: threads(path, block, 16, plain),
    "preadv and WILLNEED 32 MiB ahead, 2 threads": lambda path, block: threads(path, block, 2, hinted),
    "preadv and SEQUENTIAL, 2 threads": lambda path, block: threads(path, block, 2, sequential),
    "O_DIRECT, 2 threads": lambda path, block: threads(path, block, 2, plain, os.O_DIRECT),
    "O_DIRECT, 4 threads": lambda path, block: threads(path, block, 4, plain, os.O_DIRECT),
    "O_DIRECT, 8 threads": lambda path, block: threads(path, block, 8, plain, os.O_DIRECT),
    "O_DIRECT, 16 threads": lambda path, block: threads(path, block, 16, plain, os.O_DIRECT),
    "io_uring, 16 at a time": lambda path, block: uring(path, block, 16, 0),
    "io_uring and O_DIRECT, 16 at a time": lambda path, block: uring(path, block, 16, os.O_DIRECT),
}


def resident(path: str) -> int:
    """Return how many of the file's pages are in the page cache."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        pages = -(-len(mapping) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapping)))
        assert not ctypes.CDLL(None).mincore(address, ctypes.c_size_t(len(mapping)), found)
        return sum(page & 1 for page in found)


def measure(way: str, path: str) -> dict[str, float]:
    block = HostBlock(os.path.getsize(path))
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    WAYS[way](path, block)
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
    assert bytes(block.memory[-8:]) == b"the end."
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    read = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("read_bytes:"))
    return {"wall": wall, "cpu": cpu, "disk": int(read.split()[1])}


def in_a_process(way: str, path: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.local_reads", way, path]
    printed = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(printed.stdout)
    return found


def run() -> None:
    """Measure all ways, warm and cold, taking turns."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("FOLDER")) as folder:
        path = str(Path(folder) / "w")
        with open(path, "wb") as file:
            while file.tell() < SIZE - CHUNK:
                file.write(os.urandom(CHUNK))
            file.write(os.urandom(CHUNK - 8) + b"the end.")
            file.flush()
            os.fsync(file.fileno())
        for _ in range(ROUNDS):
            for kind in ("cold", "warm"):
                for way in WAYS:
                    prepare(path, kind)
                    found.setdefault((kind, way), []).append(in_a_process(way, path))
        at_once = {way: [together(path, way) for _ in range(ROUNDS)] for way in TOGETHER}
    rows = []
    for (kind, way), rounds in sorted(found.items()):
        walls = [each["wall"] * 1e3 for each in rounds]
        cpu = statistics.median(each["cpu"] for each in rounds) / (SIZE / 1e9)
        rows.append((way, kind, f"{statistics.median(walls):.0f}", f"{min(walls):.0f}", f"{cpu:.2f}"))
    facts = f"""A file of {SIZE >> 20} MiB on {os.environ.get("DISK", "this machine's disk")}, {ROUNDS} rounds in which
all ways take turns, each in a fresh process; load average {os.getloadavg()[1]:.0f}. Cold: nothing of the file is in the
page cache of this machine; where it is a virtual one, its host may still have it."""
    four = [
        (
            way,
            f"{statistics.median(wall for wall, _ in each) * 1e3:.0f}",
            f"{statistics.median(n for _, n in each):.2f}",
        )
        for way, each in at_once.items()
    ]
    heads = ("four processes at once, cold", "median ms of the slowest", "bytes from the disk / file")
    write("local-reads", "Ways to read a local file", [facts, table(HEAD, rows), table(heads, four)])


TOGETHER = ("preadv, 2 threads", "O_DIRECT, 4 threads")


def together(path: str, way: str) -> tuple[float, float]:
    """Four processes read the file, cold, at the same time: seconds of the slowest, and times the disk gave the file.

    What readers on a machine share is the page cache; whoever goes past it leaves nothing there for the others.
    """
    prepare(path, "cold")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: in_a_process(way, path), range(4)))
    return max(each["wall"] for each in found), sum(each["disk"] for each in found) / SIZE


def prepare(path: str, kind: str) -> None:
    with open(path, "rb") as file:
        if kind == "warm":
            while file.read(CHUNK):
                pass
            return
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    left = resident(path)
    assert left < 100, f"{left} pages stayed in the page cache"


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
