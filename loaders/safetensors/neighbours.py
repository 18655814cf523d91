"""Parts of chunks from other nodes: what a partial load reads of chunks that it does not want whole.

Whoever has the chunk checks it and says what the part must be. Nobody here waits long for a peer: one that does not
bring a range at once is left alone for a while, and the origin is asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

import xxhash

from loaders.safetensors.cache_content import Content
from loaders.safetensors.fill import Membership
from loaders.safetensors.peer_ranges import PeerRanges
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.wire import Broken
from loaders.safetensors.swarm import AVOIDED
from loaders.safetensors.tracker import TrackerLost

LOG = logging.getLogger(__name__)

LOOKS_EVERY = 3.0
"""Seconds between two questions to the tracker who has what."""

FIRST_LOOK = 1.0
"""Seconds that the first read waits for the tracker's answer."""

MOST_ASKED, BUSY_FOR, LOOK_EVERY = 8, 1.0, 0.05
"""Ranges that a peer is asked for at a time, and seconds that a read waits for its turn: the rows of an inner dimension
are thousands of small ranges, read by many threads, and the origin should not get those that come fifth."""

SILENCE = 1
SLOWEST = 8 << 20
"""A peer that is silent for so many seconds, or sends fewer bytes per second after the first one, is late."""


class Neighbours:
    """Who can be asked for ranges of one content. Used from many threads."""

    def __init__(self, content: Content, membership: Callable[[], Membership]) -> None:
        """Begin to ask the tracker."""
        self._content = content
        self._membership = membership
        self._known = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Condition()
        self._token = ""
        self._holders: dict[str, int] = {}
        self._peers = PeerRanges(content.key, SILENCE)
        self._asked: Counter[str] = Counter()
        self._avoid: dict[str, float] = {}
        self._in_vain = 0
        threading.Thread(target=self._look, name="weights-neighbours", daemon=True).start()

    def _look(self) -> None:
        """Ask the tracker now and then, in a thread of its own: it may hang."""
        try:
            me = self._membership()
            while not self._over.is_set():
                found = me.tracker.holders(me.node, self._content.key)
                with self._lock:
                    self._token, self._holders = me.token, found
                self._known.set()
                self._over.wait(LOOKS_EVERY)
        except (TrackerLost, OSError) as error:
            LOG.warning("%s: parts of it come from the origin alone: %s", self._content.public_uri, error)
        finally:
            self._known.set()

    def read(self, chunk: int, start: int, into: memoryview, interrupt: Interrupt) -> bool:
        """Fill `into` from a chunk that one of them has; False if none has it, or brings it in time."""
        with interrupt.breaking(self._known.set):
            self._known.wait(FIRST_LOOK)
        interrupt.check()
        until = time.monotonic() + BUSY_FOR
        while (endpoint := self._choose(chunk, until)) is not None:
            interrupt.check()
            if endpoint and self._brings(endpoint, chunk * self._content.chunk_size + start, into, interrupt):
                return True
        return False

    def _brings(self, endpoint: str, offset: int, into: memoryview, interrupt: Interrupt) -> bool:
        good = False
        try:
            good = self._receive(endpoint, offset, into, interrupt)
        except Broken:
            interrupt.check()
        finally:
            with self._lock:
                self._asked[endpoint] -= 1
                self._lock.notify()
                if not good:
                    self._avoid[endpoint] = time.monotonic() + AVOIDED
        return good

    def _choose(self, chunk: int, until: float) -> str | None:
        """Return the one that is asked for least; nothing (look again) if all are busy, `None` if there is nobody."""
        now = time.monotonic()
        with self._lock:
            holders = [endpoint for endpoint, have in self._holders.items() if have >> chunk & 1]
            able = [endpoint for endpoint in holders if self._avoid.get(endpoint, now) <= now]
            if not able or now > until:
                return None
            endpoint = min(able, key=lambda each: (self._asked[each], each))
            if self._asked[endpoint] >= MOST_ASKED:
                self._lock.wait(LOOK_EVERY)
                return ""
            self._asked[endpoint] += 1
            return endpoint

    def _receive(self, endpoint: str, offset: int, into: memoryview, interrupt: Interrupt) -> bool:
        """Receive a range; False where the peer has not got it, does not bring it in time, or it is wrong."""
        with self._lock:
            token = self._token
        with self._peers.ask(endpoint, token, (offset, offset + len(into)), interrupt) as offer:
            until = time.monotonic() + SILENCE + len(into) / SLOWEST
            good = offer.receive(into, until) and offer.is_right(xxhash.xxh3_64_intdigest(into))
        if not good:
            with self._lock:
                self._in_vain += offer.received
        return good

    def close(self) -> None:
        """Ask no more."""
        self._over.set()
        self._peers.close()
        if self._in_vain:
            LOG.info("%s: %d bytes of parts were asked for twice", self._content.public_uri, self._in_vain)
