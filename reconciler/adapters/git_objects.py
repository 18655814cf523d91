"""Reads commits, trees and blobs out of the mirror through git's plumbing; never touches a working copy."""

from __future__ import annotations

import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from reconciler.adapters.git_command import Failure, GitCommand, GitFailed
from specs.desired import Commit

LONGEST_WORDS = 500
"""Of an author's name and a subject: they are shown in a line."""
TREE = "040000"
LINK = "120000"
SUBMODULE = "160000"
EXECUTABLE = "100755"
ATTRIBUTES = ".gitattributes"


@dataclass(frozen=True, kw_only=True, order=True)
class Entry:
    """One file, link or submodule of a tree. `size` is None for what is not a blob."""

    path: str
    mode: str
    oid: str
    size: int | None = None

    @property
    def is_file(self) -> bool:
        """Return whether it is an ordinary file."""
        return self.mode.startswith("100")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A commit's folders (the tree id of each, by path; the root's is "") and what is in them, sorted by path."""

    folders: Mapping[str, str]
    entries: tuple[Entry, ...]

    def below(self, folder: str) -> tuple[Entry, ...]:
        """Return every file, link and submodule below a folder, named from it."""
        if not folder:
            return self.entries
        first = bisect_left(self.entries, f"{folder}/", key=_path)
        last = bisect_left(self.entries, f"{folder}0", key=_path)  # "0" comes right after "/".
        cut = len(folder) + 1
        return tuple(replace(entry, path=entry.path[cut:]) for entry in self.entries[first:last])

    @cached_property
    def attributes(self) -> Mapping[str, str]:
        """Return the blob id of each attribute file, by path: most commits have none, and each package asks."""
        found = (entry for entry in self.entries if entry.path.rpartition("/")[2] == ATTRIBUTES)
        return {entry.path: entry.oid for entry in found if entry.mode != SUBMODULE}

    def file(self, path: str) -> Entry | None:
        """Return the ordinary file at `path`, or None."""
        found = self._at(path)
        return found if found is not None and found.is_file else None

    def _at(self, path: str) -> Entry | None:
        at = bisect_left(self.entries, path, key=_path)
        return self.entries[at] if at < len(self.entries) and self.entries[at].path == path else None


def _time(seconds: str) -> datetime:
    """Return a commit's time; whoever wrote it may have written anything."""
    try:
        return datetime.fromtimestamp(int(seconds), tz=UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, tz=UTC)


def _path(entry: Entry) -> str:
    return entry.path


class Objects:
    """What one repository's commits hold."""

    def __init__(self, command: GitCommand, scratch: Path | None = None) -> None:
        """`command` runs git on the repository; `scratch` is a folder to write in, by default the repository."""
        self._command = command
        self._scratch = scratch or command.repository
        self._root = ("", "")
        """The commit that was asked for last, and its root tree."""

    def commit(self, sha: str, branch: str) -> Commit:
        """Return a commit's own words. Raises GitFailed when it is not there."""
        out = self._command.run("log", "-1", "--no-show-signature", "--format=%H%x00%an%x00%s%x00%ct%x00%T", sha, "--")
        full, author, subject, seconds, root = out.decode(errors="replace").rstrip("\n").split("\0")
        self._root = (full, root)
        return Commit(
            sha=full,
            branch=branch,
            author=author[:LONGEST_WORDS],
            subject=subject[:LONGEST_WORDS],
            committed_at=_time(seconds),
        )

    def has(self, sha: str) -> bool:
        """Return whether the commit is there, with its root tree."""
        return self._types([f"{sha}^{{commit}}", f"{sha}^{{tree}}"]) == ["commit", "tree"]

    def _types(self, names: list[str]) -> list[str | None]:
        stdin = "".join(f"{name}\n" for name in names).encode(errors="surrogateescape")
        lines = self._command.run("cat-file", "--batch-check=%(objecttype)", stdin=stdin).decode().splitlines()
        return [None if line.endswith((" missing", " ambiguous")) else line for line in lines]

    def files(self, treeish: str, path: str = "") -> tuple[Entry, ...]:
        """Return every file, link and submodule below `path`, named from the tree's root, sorted."""
        under = ["--", path] if path else []
        out = self._command.run("ls-tree", "-r", "-z", "-l", "--full-tree", treeish, *under)
        return tuple(sorted(_entry(record) for record in out.split(b"\0") if record))

    def listing(self, commit: str) -> Listing:
        """Return everything that a commit holds, in two runs of git at most, however many folders it has."""
        out = self._command.run("ls-tree", "-r", "-t", "-z", "-l", "--full-tree", commit)
        entries = [_entry(record) for record in out.split(b"\0") if record]
        known, root = self._root
        if known != commit:
            root = self._command.run("rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}").decode().strip()
        folders = {"": root} | {entry.path: entry.oid for entry in entries if entry.mode == TREE}
        return Listing(folders=folders, entries=tuple(sorted(entry for entry in entries if entry.mode != TREE)))

    def blobs(self, oids: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of blobs by id, in one run. Raises GitFailed when one cannot be read."""
        wanted = sorted(set(oids))
        if not wanted:
            return {}
        out = self._command.run("cat-file", "--batch", "--buffer", stdin="".join(f"{oid}\n" for oid in wanted).encode())
        contents: dict[str, bytes] = {}
        at = 0
        for oid in wanted:
            end = out.index(b"\n", at)
            header = out[at:end].split()
            if len(header) != 3 or header[1] != b"blob":
                raise GitFailed(Failure.CORRUPT, f"object {oid} cannot be read from the mirror")
            size = int(header[2])
            contents[oid] = out[end + 1 : end + 1 + size]
            at = end + size + 2
        return contents

    def export_ignored(self, attributes: Mapping[str, str], paths: Iterable[str]) -> frozenset[str]:
        """Return those of `paths` that `.gitattributes` mark `export-ignore`.

        `attributes` are blob ids by path, `paths` are named from the repository's root, folders with a
        slash at the end. They are looked up through a temporary index that holds nothing but the
        attribute files: `check-attr --source` needs git 2.40.
        """
        wanted = sorted(paths)
        if not attributes or not wanted:
            return frozenset()
        index = b"".join(
            f"100644 {oid} 0\t{path}\0".encode(errors="surrogateescape") for path, oid in sorted(attributes.items())
        )
        stdin = b"".join(path.encode(errors="surrogateescape") + b"\0" for path in wanted)
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="index-") as folder:
            environment = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._command.run("update-index", "-z", "--index-info", stdin=index, environment=environment)
            out = self._command.run(
                "check-attr", "--cached", "--stdin", "-z", "export-ignore", stdin=stdin, environment=environment
            )
        fields = out.decode(errors="surrogateescape").split("\0")
        return frozenset(path for path, value in zip(fields[0::3], fields[2::3], strict=False) if value == "set")


def _entry(record: bytes) -> Entry:
    meta, _, name = record.partition(b"\t")
    mode, _, oid, *size = meta.decode().split()
    length = int(size[0]) if size and size[0].isdecimal() else None
    return Entry(path=name.decode(errors="surrogateescape"), mode=mode, oid=oid, size=length)
