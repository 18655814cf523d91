"""The specs of any commit of a repository, read from its tree; each blob is read and parsed once over all commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from reconciler.adapters.git_command import Failure, GitFailed
from reconciler.adapters.git_objects import Entry, Objects
from reconciler.adapters.git_packages import Packer
from reconciler.adapters.packaging import MAX_PACKAGE_BYTES
from specs.desired import PackageRef
from specs.parse import SpecReader, Specs
from specs.yaml_marks import MAX_BYTES

__all__ = ["MAX_SPEC_BYTES", "CommitReader"]

MAX_SPEC_BYTES = 64 * 1024 * 1024
"""All YAML files together: more is data, and would be read into memory again at every commit."""

_SPEC_SUFFIXES = (".yaml", ".yml")


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

    def read(self, sha: str, branch: str) -> Specs:
        """Return what a commit wants. Raises GitFailed when it cannot be read, or holds nothing to read."""
        commit = self._objects.commit(sha, branch)
        return self._reader.read(
            commit, self.files(commit.sha), self.packer.at(commit.sha), self._elsewhere(commit.sha)
        )

    def consulted(self) -> Mapping[str, bytes]:
        """Return the files, wherever they are, that the specs of the last reading take something from."""
        return self._reader.consulted()

    def _elsewhere(self, sha: str) -> Callable[[str], bytes | None]:
        """Return how to read files of a commit beyond the folder with the specs; not links, wherever they lead."""

        def read(path: str) -> bytes | None:
            entry = self.packer.at(sha).listing.file(path)
            if entry is None or (entry.size or 0) > MAX_BYTES:
                return None
            if entry.oid not in self._bases:
                self._bases[entry.oid] = self._objects.blobs([entry.oid])[entry.oid]
            return self._bases[entry.oid]

        return read

    def files(self, sha: str) -> Mapping[str, bytes]:
        """Return a commit's YAML files by their path."""
        entries = self._spec_files(sha)
        known = {entry.oid: self._contents[entry.oid] for entry in entries if entry.oid in self._contents}
        self._contents = known | self._objects.blobs(entry.oid for entry in entries if entry.oid not in known)
        self.packer.know(self._contents)
        return {_printable(entry.path): self._contents[entry.oid] for entry in entries}

    def packaged(self, ref: PackageRef) -> Mapping[str, str]:
        """Return the files of a package, each with what tells its contents apart."""
        folder = self.packer.at(ref.commit).folder(ref.path, keep_folder=ref.keep_folder)
        return {_printable(entry.path): f"{entry.mode} {entry.oid}" for entry in folder.entries} if folder else {}

    def _spec_files(self, sha: str) -> list[Entry]:
        if self._objects.kind(sha, self._path) is None:
            raise GitFailed(Failure.OTHER, f"commit {sha[:12]} has no folder {self._path!r}: check --path")
        entries = self._objects.files(sha, self._path) if self._path else self.packer.at(sha).listing.entries
        if not entries:
            raise GitFailed(Failure.OTHER, f"commit {sha[:12]} is empty: commit a file, if only a README")
        specs = [entry for entry in entries if entry.is_file and self._is_spec_path(entry.path)]
        total = sum(entry.size or 0 for entry in specs)
        if total > MAX_SPEC_BYTES:
            raise GitFailed(
                Failure.OTHER, f"its YAML files are {total >> 20} MiB, too much to be specs: give --path FOLDER"
            )
        return specs

    def _is_spec_path(self, path: str) -> bool:
        below = path.removeprefix(self._path).strip("/") if self._path else path
        folders = below.split("/")[:-1]
        return path.endswith(_SPEC_SUFFIXES) and not any(folder.startswith(".") for folder in folders)


def _printable(path: str) -> str:
    """Return a path that can be printed, and no two as the same: a file that hides another takes its services away."""
    text = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
