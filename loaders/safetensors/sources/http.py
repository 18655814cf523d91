"""A file behind plain HTTP: keep-alive sockets, pinned by ETag, resumed inside a read."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urljoin

from loaders.safetensors.errors import LoadError, SourceChanged, SourceFailed, SourceMissing, SourceUnreachable, shown
from loaders.safetensors.sources.ahead import Ahead, Touch, as_it_is, shifted
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.retries import back_off
from loaders.safetensors.sources.streams import Streams
from loaders.safetensors.sources.wire import (
    SILENCE_SECONDS,
    Answer,
    Broken,
    Closed,
    Connection,
    Place,
    is_number,
    place_of,
)

FIRST_READ = 128 * 1024
"""Asked for when the file is opened: most headers are shorter, and so come with the file's size in one round trip."""
MOST_REDIRECTS = 5
MOST_TRIES = 8
"""Tries in a row without one byte of progress: together about ten seconds of back-off."""
LONGEST_RETRY_AFTER = 30.0
"""An origin that asks for more is treated as if it had asked for this."""
FEW_STREAMS, MOST_STREAMS = 4, 32
NEAR_SECONDS = 0.01
"""An origin that answers faster is as good as local: few streams saturate it, more only cost cores."""
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
TOO_MUCH = frozenset({429, 503})
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


class Pool:
    """Idle connections to one peer, which may be silent for so many seconds."""

    def __init__(self, silence: int = SILENCE_SECONDS) -> None:
        """Empty."""
        self._silence = silence
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    def ask(
        self, place: Place, headers: Mapping[str, str], interrupt: Interrupt, ahead: Ahead | None = None
    ) -> tuple[Connection, Answer]:
        """Send a GET and return the answer's head with the connection, which the caller gives back or closes.

        Until the answer comes, memory for its body is got ahead.

        One that idled may have been closed by the peer meanwhile. Then, and only then, another one is asked: a peer
        that is silent or talks nonsense would do so again, and who asks has others to turn to.
        """
        while True:
            connection, fresh = self._take(place, interrupt)
            try:
                return connection, connection.ask(place, headers, interrupt, ahead)
            except BaseException as error:
                connection.close()
                if not fresh and not isinstance(error, Closed):
                    self._forget()
                if fresh or not isinstance(error, Closed):
                    raise
                interrupt.check()

    def _take(self, place: Place, interrupt: Interrupt) -> tuple[Connection, bool]:
        """Return a connection, and whether it is fresh."""
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.usable:
                    return connection, False
        return Connection(place, interrupt, self._silence), True

    def give(self, connection: Connection) -> None:
        """Keep it for the next read."""
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _forget(self) -> None:
        """Close what idles: a router that has forgotten one connection has forgotten those that idled with it."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close what idles, and what comes back later."""
        with self._lock:
            self._closed = True
        self._forget()


class HttpFile:
    """One object, pinned to the ETag (or modification time) it had when it was opened."""

    def __init__(self, url: str, interrupt: Interrupt) -> None:
        """Ask for the first bytes, which tells size, ETag and latency."""
        self.uri = url
        self._pool = Pool()
        self._place = place_of(url)
        self._at, self._redirects = url, 0
        self._pin: dict[str, str] = {}
        self.size = -1
        self.version = ""
        self.streams = Streams(first=FEW_STREAMS, most=MOST_STREAMS, hedged=True)
        self._first = b""
        self._open(interrupt)

    def _open(self, interrupt: Interrupt) -> None:
        buffer = memoryview(bytearray(FIRST_READ))
        began = time.monotonic()
        got = self._patiently(0, buffer, interrupt)
        self._first = bytes(buffer[:got])
        # The first answer includes the connection, and a busy machine is soon late once: only twice late is far.
        if time.monotonic() - began > NEAR_SECONDS and self.size > got and self._answers_late(interrupt):
            self.streams = Streams(first=MOST_STREAMS, most=MOST_STREAMS, hedged=True)

    def _answers_late(self, interrupt: Interrupt) -> bool:
        began = time.monotonic()
        try:
            self._once(0, memoryview(bytearray(1)), interrupt)
        except (Broken, LoadError):  # What is wrong, the next read says.
            interrupt.check()
            return True
        return time.monotonic() - began > NEAR_SECONDS

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        """Fill the buffer; what broke is resumed where it broke."""
        if offset + len(buffer) <= len(self._first):
            buffer[:] = self._first[offset : offset + len(buffer)]
            return
        got = self._patiently(offset, buffer, interrupt, touch)
        if got < len(buffer):
            raise self._failed("the file ends before", offset + got, offset + len(buffer))

    def _patiently(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> int:
        """Read until the buffer or the file ends, with back-off between tries that bring nothing."""
        done, tries, last = 0, 0, ""
        while self.size < 0 or done < min(len(buffer), self.size - offset):
            interrupt.check()
            if tries == MOST_TRIES:
                span = (offset + done, offset + len(buffer))
                raise SourceUnreachable(f"gave up after {tries} tries: {last}", uri=self.uri, span=span)
            try:
                ahead = Ahead(shifted(touch, done), len(buffer) - done)
                got, pause, last = self._once(offset + done, buffer[done:], interrupt, ahead)
            except Broken as error:
                interrupt.check()
                got, pause, last = 0, 0.0, str(error)
            done += got
            tries = 0 if got else tries + 1
            if not got and self.size != 0:
                interrupt.wait(max(pause, back_off(tries)))
        return done

    def _once(
        self, start: int, buffer: memoryview, interrupt: Interrupt, ahead: Ahead | None = None
    ) -> tuple[int, float, str]:
        """One request: return bytes received, how long the origin asks to wait, and what was wrong."""
        pool, keep = self._pool, False
        asked = {**self._pin, "Range": f"bytes={start}-{start + len(buffer) - 1}"}
        connection, answer = pool.ask(self._place, asked, interrupt, ahead)
        try:
            if answer.status != 206:
                return 0, self._refused(answer, start, interrupt), f"the origin answered {answer.status}"
            length = self._check(answer, start, len(buffer))
            got = connection.receive(buffer[:length], interrupt, ahead=ahead)
            keep = got == length and answer.stays
            return got, 0.0, "" if got == length else "the connection broke"
        finally:
            if keep:
                pool.give(connection)
            else:
                connection.close()

    def _refused(self, answer: Answer, start: int, interrupt: Interrupt) -> float:
        """Return how long to wait before the next try, or raise what no try can mend."""
        if answer.status in (301, 302, 303, 307, 308) and self.size < 0:
            self._follow(answer)
            return 0.0
        if answer.status == 416 and self.size < 0 and answer.headers.get("content-range", "").endswith("/0"):
            self.size = 0
            return 0.0
        if answer.status in (412, 416):
            raise SourceChanged("the object was replaced while it was read", uri=self.uri, span=(start, start))
        if answer.status not in TRY_AGAIN:
            raise self._final(answer)
        if answer.status in TOO_MUCH:
            self.streams.pushed_back()
        after = answer.headers.get("retry-after", "")
        return min(float(after), LONGEST_RETRY_AFTER) if is_number(after) else 0.0

    def _final(self, answer: Answer) -> LoadError:
        meanings = {
            200: "answers with the whole file: it knows no range requests",
            401: "asks for credentials (401)",
            403: "forbids it (403)",
            404: "has no such object (404)",
        }
        kind = SourceMissing if answer.status in (403, 404, 410) else SourceFailed
        return kind(f"the origin {meanings.get(answer.status, f'answered {answer.status}')}", uri=self.uri)

    def _follow(self, answer: Answer) -> None:
        self._redirects += 1
        target = self._target(answer.headers.get("location", ""))
        if self._redirects > MOST_REDIRECTS or not target.startswith("http://"):
            raise SourceFailed(f"the origin redirects to {shown(target)}, which is not followed", uri=self.uri)
        place, self._at = place_of(target), target
        if (place.host, place.port) == (self._place.host, self._place.port):
            place = replace(place, authorization=place.authorization or self._place.authorization)
        else:
            # Credentials, which are a part of the place, are for the host that they were given for.
            self._pool.close()
            self._pool = Pool()
        self._place = place

    def _target(self, location: str) -> str:
        """Return where a redirect leads; a relative one goes on from where the last one led."""
        try:
            return urljoin(self._at, location)
        except ValueError as error:
            raise SourceFailed("the origin redirects to what is no URL", uri=self.uri) from error

    def _check(self, answer: Answer, start: int, most: int) -> int:
        """Return the body's length after comparing everything the answer says with what was pinned."""
        if not answer.plain:
            raise SourceFailed("the origin sends it compressed, though it was asked not to", uri=self.uri)
        found = CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        if found is None:
            raise SourceFailed("the origin answered 206 without a Content-Range", uri=self.uri)
        first, last, size = (int(text) for text in found.groups())
        etag, modified = answer.headers.get("etag", ""), answer.headers.get("last-modified", "")
        if self.size < 0:
            self._pin_to(size, etag, modified)
        if size != self.size or (etag or modified) != self.version:
            raise SourceChanged("the object was replaced while it was read", uri=self.uri, span=(start, start + most))
        length = last - first + 1
        if first != start or length != min(most, size - start) or answer.length not in (-1, length):
            raise SourceFailed(f"the origin sent bytes {first}-{last} when asked from {start}", uri=self.uri)
        return length

    def _pin_to(self, size: int, etag: str, modified: str) -> None:
        self.size = size
        self.version = etag or modified
        if etag and not etag.startswith("W/"):
            self._pin = {"If-Match": etag}
        elif modified and not etag:
            self._pin = {"If-Unmodified-Since": modified}

    def _failed(self, problem: str, start: int, stop: int) -> LoadError:
        return SourceFailed(problem, uri=self.uri, span=(start, stop))

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()
