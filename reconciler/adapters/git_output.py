"""What a process prints, for a limited time and up to a limited size."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import IO

_CHUNK = 1 << 20


class TooMuch(Exception):
    """It printed more than anybody wants to hold."""


class _Drain(threading.Thread):
    """Reads one side of a process to its end; ends the process when that says too much."""

    def __init__(self, process: subprocess.Popen[bytes], stream: IO[bytes] | None, most: int) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._stream = stream
        self._most = most
        self.said = bytearray()
        self.start()

    def run(self) -> None:
        if self._stream is None:
            return
        with self._stream:
            while len(self.said) <= self._most and (chunk := os.read(self._stream.fileno(), _CHUNK)):
                self.said += chunk
        if len(self.said) > self._most:
            end(self._process)


def listen(process: subprocess.Popen[bytes], stdin: bytes | None, limit: timedelta, most: int) -> tuple[bytes, bytes]:
    """Return what a process prints to either side, once it has ended.

    Raises TimeoutError after `limit` and TooMuch above `most` bytes; all of its process group is then ended.
    A small repository can describe a tree without end: folders that hold one another many times over.
    """
    deadline = time.monotonic() + limit.total_seconds()
    drains = [_Drain(process, stream, most) for stream in (process.stdout, process.stderr)]
    feeder = threading.Thread(target=_feed, args=(process.stdin, stdin or b""), daemon=True)
    feeder.start()
    for thread in (feeder, *drains):
        thread.join(max(0.0, deadline - time.monotonic()))
    is_late = any(drain.is_alive() for drain in drains) or feeder.is_alive()
    try:
        if not is_late:
            process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        is_late = True
    if is_late:
        end(process)
        process.wait()
        for thread in (feeder, *drains):
            thread.join()
        raise TimeoutError
    out, errors = (drain.said for drain in drains)
    if max(len(out), len(errors)) > most:
        raise TooMuch
    return bytes(out), bytes(errors)


def _feed(stream: IO[bytes] | None, content: bytes) -> None:
    if stream is not None:
        with suppress(OSError), stream:  # it may end without having read everything
            stream.write(content)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its own children (of git: ssh, remote helpers, index-pack)."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
