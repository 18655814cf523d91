"""One HTTP/1.1 connection that receives ranges straight into the caller's memory."""

from __future__ import annotations

import base64
import contextlib
import math
import os
import re
import select
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from loaders.safetensors.errors import SourceFailed
from loaders.safetensors.sources.ahead import Ahead
from loaders.safetensors.sources.connect import connect
from loaders.safetensors.sources.interrupt import Interrupt

MOST_HEAD_BYTES = 64 * 1024
"""An answer's head beyond this is no answer of a file server; without a limit a hostile one fills the memory."""
HEAD_READ = 4096
"""What comes in with the head beyond its end is body and must be copied once, so the read is small."""
MOST_DIGITS = 19
MOST_LINE_BYTES = 256
"""Between frames of a body; a length and what may stand beside it are shorter."""
FRAME_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
SILENCE_SECONDS = 10
"""A connection that gives nothing for so long is dead; the read goes on over another one."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a URL points: the peer to connect to and what to ask it for."""

    host: str
    port: int
    target: str
    authorization: str = ""

    @property
    def authority(self) -> str:
        """The `Host` header's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"


def place_of(url: str) -> Place:
    """Take an `http://` URL apart; raise `SourceFailed` for one that is no URL or would smuggle a second request."""
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as error:
        raise SourceFailed(f"is no URL: {error}", uri=url) from error
    if not parts.hostname or any(ord(letter) <= 0x20 or ord(letter) == 0x7F for letter in url):
        raise SourceFailed("is no URL that can be asked for", uri=url)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{parts.query}" if parts.query else "")
    authorization = ""
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Place(host=parts.hostname, port=port, target=target, authorization=authorization)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status and headers, names in lower case."""

    status: int
    headers: Mapping[str, str]

    @property
    def length(self) -> int:
        """The body's length; -1 when the answer does not say."""
        text = self.headers.get("content-length", "")
        known = is_number(text) and "transfer-encoding" not in self.headers
        return int(text) if known else -1

    @property
    def framed(self) -> bool:
        """Whether the body comes in frames, each after its length."""
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def plain(self) -> bool:
        """Whether the body is the object's own bytes, and not something that was made of them on the way."""
        encodings = (self.headers.get("transfer-encoding", ""), self.headers.get("content-encoding", ""))
        return encodings[0].lower() in ("", "chunked", "identity") and encodings[1].lower() in ("", "identity")

    @property
    def stays(self) -> bool:
        """Whether the connection can be used again after the body."""
        return self.length >= 0 and self.headers.get("connection", "").lower() != "close"


def is_number(text: str) -> bool:
    """Tell whether it is a number of bytes. Python refuses to read thousands of digits, and nothing has so many."""
    return 0 < len(text) <= MOST_DIGITS and text.isascii() and text.isdecimal()


class Broken(Exception):
    """The connection is of no use any more; what was received so far is good."""


class Closed(Broken):
    """The other side had closed it, or closed it before its answer's head was complete."""


class Connection:
    """A keep-alive connection. One thread at a time; `cut` may come from any."""

    def __init__(self, place: Place, interrupt: Interrupt, silence: int = SILENCE_SECONDS) -> None:
        """Connect; raise `Broken` when that fails, or the interrupt's error when it fires meanwhile."""
        self._silence = silence
        try:
            # Blocking: Python's own time-outs would take the meaning from MSG_WAITALL.
            self._socket = connect(place.host, place.port, interrupt, silence)
        except OSError as error:
            raise Broken(f"no connection to {place.authority}: {error}") from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", silence, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", silence, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._head = bytearray(HEAD_READ)
        self._rest = memoryview(b"")
        self._framed, self._frame = False, 0
        self._process = os.getpid()

    @property
    def usable(self) -> bool:
        """A fork has the same socket: two processes on one connection would read each other's bytes."""
        return self._process == os.getpid()

    def ask(self, place: Place, headers: Mapping[str, str], interrupt: Interrupt, ahead: Ahead | None = None) -> Answer:
        """Send a GET and return the answer's head; the body is taken with `receive`.

        The time until the answer comes is used to get memory ahead for its body.
        """
        lines = [f"GET {place.target} HTTP/1.1", f"Host: {place.authority}", "Accept-Encoding: identity"]
        if place.authorization:
            lines.append(f"Authorization: {place.authorization}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with interrupt.breaking(self.cut):
            try:
                self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
                if ahead is not None:
                    ahead.meanwhile(self._poll.poll)
                answer = self._receive_head()
                self._framed, self._frame = answer.framed, 0
                return answer
            except (ConnectionResetError, BrokenPipeError) as error:
                raise Closed(str(error)) from error
            except OSError as error:
                raise Broken(self._why(error)) from error

    def _receive_head(self) -> Answer:
        head = bytearray()
        while (end := head.find(b"\r\n\r\n")) < 0:
            if len(head) > MOST_HEAD_BYTES:
                raise Broken("the answer's head does not end")
            count = self._socket.recv_into(self._head)
            if count == 0:
                raise Closed("the connection was closed before an answer")
            head += memoryview(self._head)[:count]
        self._rest = memoryview(bytes(head[end + 4 :]))
        return _parse_head(bytes(head[:end]))

    def receive(
        self, buffer: memoryview, interrupt: Interrupt, until: float = math.inf, ahead: Ahead | None = None
    ) -> int:
        """Fill the buffer with body and return how much came: less only when the connection broke, or time was up.

        `until` is looked at whenever nothing came for as long as the connection may be silent.
        """
        with interrupt.breaking(self.cut):
            return self._receive_frames(buffer, until) if self._framed else self._receive(buffer, until, ahead)

    def _receive(self, buffer: memoryview, until: float, ahead: Ahead | None = None) -> int:
        taken = min(len(self._rest), len(buffer))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        while taken < len(buffer):
            try:
                stop = len(buffer) if ahead is None else ahead.until(taken + 1)
                count = self._socket.recv_into(buffer[taken:stop], 0, socket.MSG_WAITALL)
            except OSError:
                break
            taken += count
            if count == 0 or time.monotonic() > until:
                break
        return taken

    def _receive_frames(self, buffer: memoryview, until: float) -> int:
        taken = 0
        while taken < len(buffer) and time.monotonic() <= until:
            if not self._frame:
                self._frame = self._next_frame()
            part = buffer[taken : taken + self._frame]
            got = self._receive(part, until)
            taken, self._frame = taken + got, self._frame - got
            if not part or got < len(part) or (not self._frame and self._line() != b""):
                break
        return taken

    def _next_frame(self) -> int:
        """Return the next frame's length; 0 for the last one, and for what is none."""
        size = self._line().partition(b";")[0].strip()
        return int(size, 16) if FRAME_SIZE.fullmatch(size) else 0

    def _line(self) -> bytes:
        """Take a short line of the body, without its end; what is none, or does not come, is no frame's length."""
        line = bytearray()
        letter = memoryview(bytearray(1))
        while not line.endswith(b"\r\n"):
            if len(line) > MOST_LINE_BYTES or not self._receive(letter, math.inf):
                return b"?"
            line += letter
        return bytes(line[:-2])

    def _why(self, error: OSError) -> str:
        return f"nothing came for {self._silence} s" if isinstance(error, BlockingIOError) else str(error)

    def cut(self) -> None:
        """Make every read on it end now."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; no read may be going on."""
        self._socket.close()


def _parse_head(head: bytes) -> Answer:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not is_number(words[1]):
        raise Broken(f"no HTTP answer: {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if words[0] == "HTTP/1.0":
        headers["connection"] = headers.get("connection", "close")
    return Answer(status=int(words[1]), headers=headers)
