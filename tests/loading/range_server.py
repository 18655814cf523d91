"""An HTTP/1.1 range server in its own process: `python -m tests.loading.range_server FOLDER [PORT]`.

It prints its port and serves the folder's files until its standard input ends. `PUT /-/shape` changes how it behaves,
`GET /-/counters` tells what it did, `DELETE /-/counters` starts counting anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.loading.shape import Counters, Shape, to_json

PIECE = 256 * 1024
"""A limited answer is sent in pieces of this size: small against any rate worth testing."""

STALL = 60.0


class Pace:
    """Spreads bytes over time: each send is due when all the bytes before it have had their time."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.lock = threading.Lock()
        self.due = 0.0

    def wait(self, count: int) -> None:
        if not self.rate:
            return
        with self.lock:
            now = time.monotonic()
            self.due = max(self.due, now - 0.005) + count / self.rate
            due = self.due
        if due > now:
            time.sleep(due - now)


class Books:
    """Everything that requests share: the shape, and what was counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.lock = threading.Lock()
        self.etags: dict[tuple[str, int, int], str] = {}
        self.change(Shape())
        self.forget()

    def change(self, shape: Shape) -> None:
        self.shape = shape
        self.total = Pace(shape.total_bandwidth)
        self.numbered = 0

    def forget(self) -> None:
        with self.lock:
            self.connections = self.requests = self.body = self.open = self.open_most = 0
            self.statuses: Counter[str] = Counter()
            self.paths: Counter[str] = Counter()
            self.ranges: list[tuple[str, int, int]] = []

    def number(self) -> int:
        with self.lock:
            self.numbered += 1
            return self.numbered

    def counters(self) -> Counters:
        with self.lock:
            return Counters(
                connections=self.connections,
                requests=self.requests,
                body=self.body,
                open_most=self.open_most,
                statuses=dict(self.statuses),
                paths=dict(self.paths),
                ranges=list(self.ranges),
            )

    def etag(self, path: Path, number: int) -> str:
        """Return the shape's ETag, or one made of the content."""
        if self.shape.etag:
            return "" if self.shape.etag == "-" else self.shape.etag
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        if key not in self.etags:
            with path.open("rb") as file:
                self.etags[key] = hashlib.file_digest(file, "md5").hexdigest()
        changed = self.shape.change_etag_after and number > self.shape.change_etag_after
        return f'"{self.etags[key]}{"-2" if changed else ""}"'


def hit(number: int, every: int) -> bool:
    return bool(every) and number % every == 0


def asked_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return first byte and count; `None` for everything; raise `ValueError` for what cannot be satisfied."""
    if header is None or not header.startswith("bytes=") or "," in header:
        return None
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        count = min(int(last), size)
        start = size - count
    else:
        start = int(first)
        count = (min(int(last), size - 1) if last else size - 1) - start + 1
    if start >= size or count <= 0:
        raise ValueError(header)
    return start, count


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeHTTPServer

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.books.lock:
            self.books.connections += 1

    @property
    def books(self) -> Books:
        return self.server.books

    def log_message(self, *_: object) -> None:
        """Say nothing: tests read the counters."""

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.books.change(Shape(**json.loads(body)))
        self.answer(204)

    def do_DELETE(self) -> None:
        self.books.forget()
        self.answer(204)

    def do_HEAD(self) -> None:
        self.serve(body=False)

    def do_GET(self) -> None:
        if self.path == "/-/counters":
            content = json.dumps(to_json(self.books.counters())).encode()
            self.answer(200, {"Content-Length": str(len(content))})
            self.wfile.write(content)
            return
        with self.being_answered():
            self.serve(body=True)

    @contextlib.contextmanager
    def being_answered(self) -> Iterator[None]:
        books = self.books
        with books.lock:
            books.open += 1
            books.open_most = max(books.open_most, books.open)
        try:
            yield
        finally:
            with books.lock:
                books.open -= 1

    def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        with self.books.lock:
            if not self.path.startswith("/-/"):
                self.books.statuses[str(status)] += 1
        self.send_response_only(status)
        for name, value in ({"Content-Length": "0"} | (headers or {})).items():
            self.send_header(name, value)
        if self.books.shape.close_each:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()

    def serve(self, *, body: bool) -> None:
        shape = self.books.shape
        number = self.books.number() if body else self.books.numbered
        with self.books.lock:
            self.books.requests += 1
        time.sleep(shape.first_byte)
        if shape.token and self.headers.get("Authorization") != f"Bearer {shape.token}":
            return self.answer(401)
        if body and (number <= shape.refuse_first or hit(number, shape.refuse_every)):
            return self.answer(shape.refuse_status, {"Retry-After": shape.retry_after} if shape.retry_after else None)
        path = (self.books.folder / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        if not path.is_relative_to(self.books.folder) or not path.is_file():
            return self.answer(404)
        etag, size = self.books.etag(path, number), path.stat().st_size
        wanted = self.headers.get("If-Match")
        if wanted is not None and wanted not in ("*", etag) and not shape.ignore_if_match:
            return self.answer(412)
        try:
            asked = None if shape.ignore_range else asked_range(self.headers.get("Range"), size)
        except ValueError:
            return self.answer(416, {"Content-Range": f"bytes */{size}"})
        if self.headers.get("If-Range", etag) != etag:
            asked = None
        start, count = asked or (0, size)
        headers = {"Content-Length": str(count), "Accept-Ranges": "none" if shape.ignore_range else "bytes"}
        modified = formatdate(path.stat().st_mtime, usegmt=True)
        headers |= {"ETag": etag, "Last-Modified": modified} if etag else {}
        headers |= {"Content-Range": f"bytes {start}-{start + count - 1}/{size}"} if asked else {}
        self.answer(206 if asked else 200, headers)
        if body:
            self.send(path, start, count, number)
        return None

    def send(self, path: Path, start: int, count: int, number: int) -> None:
        """Send the body, whole or with the fault that this answer is due."""
        shape = self.books.shape
        reset, truncate = hit(number, shape.reset_every), hit(number, shape.truncate_every)
        stall = hit(number, shape.stall_every)
        pace = Pace(shape.slow_bandwidth if hit(number, shape.slow_every) else shape.bandwidth)
        self.wfile.flush()
        with self.books.lock:
            self.books.ranges.append((urlsplit(self.path).path, start, count))
        with path.open("rb") as file:
            self.pour(file.fileno(), (start, count // 2 if reset or truncate or stall else count), pace, number)
        if stall:
            time.sleep(STALL)
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if reset or truncate or stall:
            self.connection.close()
            self.close_connection = True

    def pour(self, descriptor: int, span: tuple[int, int], pace: Pace, number: int) -> None:
        start, count = span
        piece = PIECE if pace.rate or self.books.total.rate else count
        wrong = start + count // 2 if hit(number, self.books.shape.flip_every) else -1
        at = start
        while at < start + count:
            step = min(piece, start + count - at)
            pace.wait(step)
            self.books.total.wait(step)
            sent = self.hand_over(descriptor, at, step, wrong)
            if not sent:
                return
            at += sent
            with self.books.lock:
                self.books.body += sent
                self.books.paths[urlsplit(self.path).path] += sent

    def hand_over(self, descriptor: int, at: int, count: int, wrong: int) -> int:
        if not at <= wrong < at + count:
            return os.sendfile(self.connection.fileno(), descriptor, at, count)
        content = bytearray(os.pread(descriptor, count, at))
        content[wrong - at] ^= 0xFF
        self.connection.sendall(content)
        return len(content)


class RangeHTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path, port: int) -> None:
        self.books = Books(folder)
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, *_: object) -> None:
        """Clients go away in the middle all the time: that is what the tests are about."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*_)


def main() -> None:
    server = RangeHTTPServer(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
