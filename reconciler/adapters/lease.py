"""Only one daemon acts on one state folder: a lock that the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from reconciler.errors import Stalled


class FileLease:
    """A lease on a state folder, held from `acquire` to `release` or the process's end."""

    def __init__(self, folder: Path) -> None:
        """Lock `folder/lock`, a file that also tells the holder's process id."""
        self._path = folder / "lock"
        self._file: int | None = None

    @property
    def is_held(self) -> bool:
        """Return whether this process holds the lease."""
        return self._file is not None

    def acquire(self) -> None:
        """Take the lease. Raises Stalled, naming the process that holds it."""
        if self._file is not None:
            return
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Stalled(f"cannot open the lock {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 32).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise Stalled(
                f"another Heliostat daemon (pid {holder}) already uses the state folder {self._path.parent}: "
                "stop it first, or give this one its own folder with --state"
            ) from error
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file

    def release(self) -> None:
        """Give the lease back. The file stays: removing it would let two daemons lock two different files."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> FileLease:
        """Acquire."""
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Release."""
        self.release()
