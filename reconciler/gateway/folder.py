"""The gateway's folder: sockets, maps and state, for this user alone."""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.errors import Stalled


class Folder:
    """A folder held open, so that its sockets can be reached however long its path is.

    A unix socket's address holds 107 bytes; `/proc/self/fd/N/name` always fits. HAProxy has the folder
    as its working directory and uses names alone.
    """

    def __init__(self, path: Path) -> None:
        """Make the folder, 0700. Raises Stalled when that is not possible."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.chmod(0o700)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Stalled(f"the gateway's folder {path} cannot be used: {error.strerror}; give it another") from error

    def socket_path(self, name: str) -> Path:
        """Return a path to a socket of this folder that is short enough to connect to or bind."""
        return Path(f"/proc/self/fd/{self._fd}/{name}")

    def write(self, name: str, text: str) -> None:
        """Replace a file at once: readers see the old one or the new one, whole. Raises Stalled."""
        draft = self.path / f".{name}.new"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            draft.replace(self.path / name)
        except OSError as error:
            raise Stalled(
                f"the gateway cannot write {self.path / name}: {error.strerror}. Make room on its disk, or make it "
                "writable for this user; routes stay as they are until then"
            ) from error

    def read(self, name: str) -> str | None:
        """Return a file's text, or None when there is none."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Let the folder go."""
        os.close(self._fd)
