"""How a node asks another one for a range of a content: over connections that stay, with the cluster's token."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator

from loaders.safetensors.chunk_server import CHECKSUM, RANGE_CHECKSUM, checksum_text
from loaders.safetensors.sources.http import Pool
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.wire import SILENCE_SECONDS, Answer, Connection, Place


class Offer:
    """A peer's answer, whose body has not been received yet."""

    def __init__(self, answer: Answer, connection: Connection, interrupt: Interrupt, wanted: int) -> None:
        """`wanted` is the range's length."""
        self.status = answer.status
        self.received = 0
        self._wanted = wanted
        self._connection, self._interrupt = connection, interrupt
        self._fits = answer.status == 206 and answer.length == wanted
        said = (answer.headers.get(name.lower(), "") for name in (CHECKSUM, RANGE_CHECKSUM))
        self._said = next(filter(None, said), "")

    def receive(self, into: memoryview, until: float = math.inf) -> bool:
        """Fill `into`; False if the answer is another one, ends early, or time (see `Connection.receive`) is up."""
        if self._fits:
            self.received = self._connection.receive(into, self._interrupt, until)
        return self.complete

    @property
    def complete(self) -> bool:
        """Tell whether all bytes came, whatever they are."""
        return self._fits and self.received == self._wanted

    def is_right(self, checksum: int) -> bool:
        """Tell whether the bytes are what the peer has on record. One that does not say what they must be is wrong."""
        return self._said == checksum_text(checksum)


class PeerRanges:
    """Ranges of one content, from whoever has them. Used from many threads."""

    def __init__(self, key: str, silence: int = SILENCE_SECONDS) -> None:
        """A peer may be silent for so many seconds."""
        self._key, self._silence = key, silence
        self._lock = threading.Lock()
        self._pools: dict[str, Pool] = {}
        self._closed = False

    @contextlib.contextmanager
    def ask(self, endpoint: str, token: str, span: tuple[int, int], interrupt: Interrupt) -> Iterator[Offer]:
        """Ask for the bytes from the first to before the second; `Broken` if there is no answer.

        The body is received within the block.
        """
        host, _, port = endpoint.rpartition(":")
        place = Place(host=host, port=int(port), target=f"/{self._key}")
        asked = {"Authorization": f"Bearer {token}", "Range": f"bytes={span[0]}-{span[1] - 1}"}
        pool = self._pool(endpoint)
        connection, answer = pool.ask(place, asked, interrupt)
        offer = Offer(answer, connection, interrupt, span[1] - span[0])
        try:
            yield offer
        finally:
            if offer.complete:
                pool.give(connection)
            else:
                connection.close()

    def _pool(self, endpoint: str) -> Pool:
        with self._lock:
            if endpoint not in self._pools:
                self._pools[endpoint] = Pool(self._silence)
                if self._closed:  # what comes back later is closed, too
                    self._pools[endpoint].close()
            return self._pools[endpoint]

    def close(self) -> None:
        """Close what idles, and what comes back later."""
        with self._lock:
            self._closed = True
            pools = list(self._pools.values())
        for pool in pools:
            pool.close()
