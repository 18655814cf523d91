"""A process that reads one object through the node's cache: `python -m tests.loading.cache_reader URL`.

The cache is where `HELIOSTAT_CACHE_DIR` says. Prints the SHA-256 of what it read.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import sys

from loaders.safetensors.plan import chunk_bytes_for
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.opening import Origin, open_source


def load(uri: str, threads: int = 4) -> bytes:
    """Read everything, as a loader does: chunk by chunk on a few threads."""
    interrupt = Interrupt()
    source = open_source(uri, Origin(cache="node"), interrupt)
    source_size, step = source.size, chunk_bytes_for(source.size)
    target = memoryview(bytearray(source_size))
    if hasattr(source, "expect"):
        source.expect([(0, source_size)])

    def read(start: int) -> None:
        source.read_into(start, target[start : min(source_size, start + step)], interrupt)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(0, source_size, step)))
    source.close()
    return bytes(target)


if __name__ == "__main__":
    print(hashlib.sha256(load(sys.argv[1])).hexdigest(), flush=True)
