"""A file on this machine, read by `preadv` straight into the result."""

from __future__ import annotations

import contextlib
import os
import stat

from loaders.safetensors.errors import SourceChanged, SourceFailed
from loaders.safetensors.sources.ahead import Ahead, Touch, as_it_is
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.streams import Streams, cores

MOST_STREAMS = 16
"""Beyond this many copies at a time memory, not the number of cores, is the limit."""


def _identity(status: os.stat_result) -> str:
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


class LocalFile:
    """An open file. It is the same file to the end, also when another one takes its name."""

    def __init__(self, path: str) -> None:
        """Raise `SourceFailed` when there is no such regular file."""
        self.uri = path
        try:
            # A pipe in the file's place would block the open for ever.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise SourceFailed(f"cannot be opened: {error}", uri=path) from error
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise SourceFailed("is no regular file", uri=path)
        self.size = status.st_size
        self.version = _identity(status)
        self.streams = Streams(first=max(2, min(MOST_STREAMS, cores())), most=max(2, min(MOST_STREAMS, cores())))

    def read_into(self, offset: int, buffer: memoryview, interrupt: Interrupt, touch: Touch = as_it_is) -> None:
        """Fill the buffer; a file that got shorter or was written to meanwhile is an error."""
        interrupt.check()
        done, ahead = 0, Ahead(touch, len(buffer))
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done : ahead.until(done + 1)]], offset + done)
            except OSError as error:
                problem = f"reading failed: {error}"
                raise SourceFailed(problem, uri=self.uri, span=(offset + done, offset + len(buffer))) from error
            if count == 0:
                problem = "the file ends here; it was cut short while it was read"
                raise SourceChanged(problem, uri=self.uri, span=(offset + done, offset + len(buffer)))
            done += count
        if _identity(os.fstat(self._descriptor)) != self.version:
            raise SourceChanged("the file was written to while it was read", uri=self.uri)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)
