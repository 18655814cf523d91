"""A process that loads one content through a cache: `python -m tests.loading.cache_reader URL ETAG SIZE`.

The cache is where `HELIOSTAT_CACHE_DIR` says. Prints the SHA-256 of what it read.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import sys
import threading
from urllib.parse import urlsplit

from loaders.safetensors.cache_content import Content
from loaders.safetensors.cache_read import ReadThrough
from loaders.safetensors.cache_settings import cache_settings
from loaders.safetensors.cache_store import Store


class PlainOrigin:
    """Ranges over plain HTTP, one connection per thread."""

    def __init__(self, url: str) -> None:
        self.url = urlsplit(url)
        self.local = threading.local()
        self.opened: list[http.client.HTTPConnection] = []

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection(str(self.url.hostname), self.url.port, timeout=30)
            self.opened.append(self.local.connection)
        connection = self.local.connection
        connection.request("GET", self.url.path, headers={"Range": f"bytes={offset}-{offset + len(buffer) - 1}"})
        answer = connection.getresponse()
        if answer.status != 206:
            answer.read()
            raise OSError(f"{answer.status} for {self.url.path}")
        at = 0
        while at < len(buffer):
            count = answer.readinto(buffer[at:])
            if not count:
                raise OSError("the origin ended its answer early")
            at += count
        answer.read()

    def close(self) -> None:
        for connection in self.opened:
            connection.close()


def load(store: Store, content: Content, threads: int = 4) -> bytes:
    """Read everything, as a loader does: chunk by chunk on a few threads."""
    entry = store.open(content, content.size)
    assert entry is not None, "no room in the cache"
    origin = PlainOrigin(content.uri)
    source = ReadThrough(store, entry, origin)
    target = memoryview(bytearray(content.size))

    def read(chunk: int) -> None:
        start = chunk * content.chunk_size
        source.read_into(start, target[start : start + content.length_of(chunk)])

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(content.chunks)))
    source.close()
    origin.close()
    return bytes(target)


def main() -> None:
    url, etag, size = sys.argv[1:]
    settings = cache_settings()
    store = Store(settings.folder, settings.cap)
    print(hashlib.sha256(load(store, Content(uri=url, etag=etag, size=int(size)))).hexdigest(), flush=True)


if __name__ == "__main__":
    main()
