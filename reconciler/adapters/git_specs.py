"""The specs of any commit of a repository, read from its tree; each blob is read and parsed once over all commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from reconciler.adapters.git_command import Failure, GitFailed
from reconciler.adapters.git_objects import Entry, Objects
from reconciler.adapters.git_packages import Packer
from reconciler.adapters.git_unread import find_unread
from reconciler.adapters.packaging import MAX_PACKAGE_BYTES
from specs.desired import PackageRef, Unread
from specs.parse import SpecReader, Specs
from specs.unread import SPEC_SUFFIXES
from specs.yaml_marks import MAX_BYTES

__all__ = ["MAX_SPEC_BYTES", "CommitReader"]

MAX_SPEC_BYTES = 64 * 1024 * 1024
"""All YAML files together: more is data, and would be read into memory again at every commit."""


class CommitReader:
    """Reads the specs below one folder. Blocking: call it in a thread."""

    def __init__(self, objects: Objects, path: str, max_package_bytes: int = MAX_PACKAGE_BYTES) -> None:
        """`path` is the folder (or file) with the specs; "" is the whole repository."""
        self._objects = objects
        self._path = path
        self._reader = SpecReader()
        self.packer = Packer(objects, self._reader.is_spec_file, max_package_bytes)
        self._contents: dict[str, bytes] = {}
        self._bases: dict[str, bytes] = {}
        """Files that the specs of the last reading take something from, by their blobs' ids."""
        self._listed: tuple[str, list[Entry]] = ("", [])
        """A commit, and what is in its folder with the specs."""

    def read(self, sha: str, branch: str) -> Specs:
        """Return what a commit wants. Raises GitFailed when it cannot be read, or holds nothing to read."""
        commit = self._objects.commit(sha, branch)
        packages, before, self._bases = self.packer.at(commit.sha), self._bases, {}
        elsewhere = self._elsewhere(commit.sha, before)
        return self._reader.read(commit, self.files(commit.sha), packages, elsewhere, self.unread(commit.sha))

    def consulted(self) -> Mapping[str, bytes]:
        """Return the files, wherever they are, that the specs of the last reading take something from."""
        return self._reader.consulted()

    def _elsewhere(self, sha: str, before: Mapping[str, bytes]) -> Callable[[str], bytes | None]:
        """Return how to read files of a commit beyond the folder with the specs; not links, wherever they lead."""

        def read(path: str) -> bytes | None:
            entry = self.packer.at(sha).listing.file(path)
            if entry is None or (entry.size or 0) > MAX_BYTES:
                return None
            if entry.oid not in self._bases:
                known = before.get(entry.oid)
                self._bases[entry.oid] = self._objects.blobs([entry.oid])[entry.oid] if known is None else known
            return self._bases[entry.oid]

        return read

    def files(self, sha: str) -> Mapping[str, bytes]:
        """Return a commit's YAML files by their path."""
        entries = [entry for entry in self._entries(sha) if entry.is_file and entry.path.endswith(SPEC_SUFFIXES)]
        total = sum(entry.size or 0 for entry in entries)
        if total > MAX_SPEC_BYTES:
            raise GitFailed(
                Failure.OTHER, f"its YAML files are {total >> 20} MiB, too much to be specs: give --path FOLDER"
            )
        known = {entry.oid: self._contents[entry.oid] for entry in entries if entry.oid in self._contents}
        self._contents = known | self._objects.blobs(entry.oid for entry in entries if entry.oid not in known)
        self.packer.know(self._contents)
        return {_printable(entry.path): self._contents[entry.oid] for entry in entries}

    def unread(self, sha: str) -> tuple[Unread, ...]:
        """Return what stands among a commit's spec files and cannot be read."""
        odd = (entry for entry in self._entries(sha) if not entry.is_file)
        found = find_unread(self._objects, odd, lambda: self.packer.at(sha).listing, self._reader.is_spec_file)
        return tuple(replace(one, path=_printable(one.path)) for one in found)

    def packaged(self, ref: PackageRef) -> Mapping[str, str]:
        """Return the files of a package, each with what tells its contents apart."""
        folder = self.packer.at(ref.commit).folder(ref.path, keep_folder=ref.keep_folder)
        return {_printable(entry.path): f"{entry.mode} {entry.oid}" for entry in folder.entries} if folder else {}

    def _entries(self, sha: str) -> list[Entry]:
        """Return what is in the folder with the specs, but in none whose name begins with a dot."""
        if self._listed[0] != sha:
            entries = self._objects.files(sha, self._path) if self._path else self.packer.at(sha).listing.entries
            if not entries and self._path:
                raise GitFailed(Failure.OTHER, f"commit {sha[:12]} has no folder {self._path!r}: check --path")
            if not entries:
                raise GitFailed(Failure.OTHER, f"commit {sha[:12]} is empty: commit a file, if only a README")
            self._listed = (sha, [entry for entry in entries if self._is_looked_into(entry.path)])
        return self._listed[1]

    def _is_looked_into(self, path: str) -> bool:
        below = path.removeprefix(self._path).strip("/") if self._path else path
        folders = below.split("/")[:-1]
        return not any(folder.startswith(".") for folder in folders)


def _printable(path: str) -> str:
    """Return a path that can be printed, and no two as the same: a file that hides another takes its services away."""
    if path.isascii() and path.isprintable():
        return path
    text = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
