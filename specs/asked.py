"""What the meaning of a spec file depends on besides its own content."""

from __future__ import annotations

from specs.runtime_env import Folders


def no_file(_path: str) -> bytes | None:
    """Return that a commit has no file but those that are read anyway."""
    return None


class AskedIndex:
    """Answers as the commit does, and remembers what was asked."""

    def __init__(self, folders: Folders) -> None:
        """`folders` are the commit's."""
        self._folders = folders
        self.asked: dict[tuple[str, bool], str | None] = {}
        self.taken: dict[str, bytes | None] = {}

    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        """Return the content hash of a folder as packaged, or None."""
        found = self._folders.index.package_id(path, keep_folder=keep_folder)
        self.asked[path, keep_folder] = found
        return found

    def read(self, path: str) -> bytes | None:
        """Return a file of the commit."""
        self.taken[path] = found = self._folders.read(path)
        return found
