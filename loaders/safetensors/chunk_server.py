"""Serves the node's cached chunks to peers: HTTP ranges on a port of its own, by `sendfile`, to who shows the token.

It has nothing to do with the request path of what the replica serves, and knows nothing but contents by their key.
"""

from __future__ import annotations

import hmac
import os
import re
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import xxhash

from loaders.safetensors.cache_content import pieces
from loaders.safetensors.cache_entry import Entry
from loaders.safetensors.cache_store import Store

RANGE = re.compile(r"bytes=([0-9]{1,19})-([0-9]{1,19})")
SILENCE = 60.0
"""Seconds after which a connection is closed that brings no request, or takes nothing of the answer: a peer that went
away without saying so, or hangs."""

CHECKSUM = "Chunk-Checksum"
"""The header that says what the bytes of a chunk must be; who receives them compares, since nobody here reads them."""

RANGE_CHECKSUM = "Range-Checksum"
"""Of a part of a chunk, which nobody else could compare with anything: the chunk is checked here before it is sent."""

CHECKED_FOR = 60.0
"""Seconds for which a chunk that was checked is not read whole again for each part of it."""


class Handler(BaseHTTPRequestHandler):
    """One peer's connection."""

    protocol_version = "HTTP/1.1"
    timeout = SILENCE
    server: ChunkServer

    def setup(self) -> None:
        """Send small answers at once."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SILENCE), 0))

    def log_message(self, *_: object) -> None:
        """Say nothing: thousands of chunks are thousands of lines."""

    def do_GET(self) -> None:
        """Answer 206 with the bytes, 404 if they are not here, 401 without the token."""
        shown = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(shown, f"Bearer {self.server.token}".encode()):
            return self._refuse(401)
        found = RANGE.fullmatch(self.headers.get("Range", ""))
        entry = self.server.store.peek(self.path.removeprefix("/"))
        if entry is None:
            return self._refuse(404)
        with entry:
            start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, 0)
            if not 0 <= start < stop <= entry.content.size:
                return self._refuse(416)
            checksums = recorded(entry, start, stop)
            if None in checksums:
                return self._refuse(404)
            if len(checksums) == 1 and stop - start < entry.content.length_of(start // entry.content.chunk_size):
                return self._send_part(entry, start, stop)
            return self._send(entry, start, stop, checksums[0] if len(checksums) == 1 else None)

    def _refuse(self, status: int) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_part(self, entry: Entry, start: int, stop: int) -> None:
        """Send a part of a chunk that was checked, and say what the part's bytes must be."""
        chunk, within = divmod(start, entry.content.chunk_size)
        content = memoryview(bytearray(stop - start))
        entry.trust(self.server.checked(entry))
        if not entry.read(chunk, within, content):
            return self._refuse(404)
        self._begin(entry, start, stop, (RANGE_CHECKSUM, xxhash.xxh3_64_intdigest(content)))
        self.wfile.write(content)
        self.server.count(len(content))
        return None

    def _begin(self, entry: Entry, start: int, stop: int, checksum: tuple[str, int] | None) -> None:
        self.send_response_only(206)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{entry.content.size}")
        if checksum is not None:
            self.send_header(checksum[0], checksum_text(checksum[1]))
        self.end_headers()
        self.wfile.flush()

    def _send(self, entry: Entry, start: int, stop: int, checksum: int | None) -> None:
        self._begin(entry, start, stop, None if checksum is None else (CHECKSUM, checksum))
        # A socket with a time-out is non-blocking below, which sendfile does not bear; the kernel's own limit holds.
        self.connection.settimeout(None)
        while start < stop:
            sent = os.sendfile(self.connection.fileno(), entry.descriptor(), start, stop - start)
            if not sent:
                self.close_connection = True
                return
            start += sent
            self.server.count(sent)
        self.connection.settimeout(SILENCE)


def checksum_text(checksum: int) -> str:
    """Write a checksum as it stands in the header."""
    return f"{checksum:016x}"


def recorded(entry: Entry, start: int, stop: int) -> list[int | None]:
    """Return the checksum of every chunk of the range, `None` for one that is not there."""
    return [entry.checksum(piece.chunk) for piece in pieces(start, stop - start, entry.content.chunk_size)]


class ChunkServer(ThreadingHTTPServer):
    """Runs in threads of its own until `stop`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, store: Store, host: str, port: int, token: str) -> None:
        """Listen; port 0 takes a free one."""
        self.store, self.token, self.sent = store, token, 0
        self._lock = threading.Lock()
        self._checked: dict[tuple[str, int], tuple[float, set[int]]] = {}
        super().__init__((host, port), Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="weights-server", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Where peers find it."""
        return f"{self.server_address[0]!s}:{self.server_address[1]}"

    def checked(self, entry: Entry) -> set[int]:
        """Return the set of chunks of this content that were found right lately; whoever checks one adds it."""
        now, key = time.monotonic(), (entry.content.key, entry.identity)
        with self._lock:
            since, found = self._checked.get(key, (now, set[int]()))
            if now - since > CHECKED_FOR:
                since, found = now, set()
            self._checked = {each: known for each, known in self._checked.items() if now - known[0] <= CHECKED_FOR}
            self._checked[key] = (since, found)
            return found

    def count(self, sent: int) -> None:
        """Count bytes given to peers."""
        with self._lock:
            self.sent += sent

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that goes away in the middle is no error here."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def stop(self) -> None:
        """Close the port; answers in progress end with their connections."""
        self.shutdown()
        self.server_close()
        self._thread.join()
