"""Reads commits, trees and blobs out of the mirror through git's plumbing; never touches a working copy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from reconciler.adapters.git_command import Failure, GitCommand, GitFailed
from specs.desired import Commit

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


class Objects:
    """What one repository's commits hold."""

    def __init__(self, command: GitCommand) -> None:
        """`command` runs git on the repository."""
        self._command = command

    def commit(self, sha: str, branch: str) -> Commit:
        """Return a commit's own words. Raises GitFailed when it is not there."""
        out = self._command.run("log", "-1", "--no-show-signature", "--format=%H%x00%an%x00%s%x00%ct", sha, "--")
        full, author, subject, seconds = out.decode(errors="replace").rstrip("\n").split("\0")
        at = datetime.fromtimestamp(int(seconds), tz=UTC)
        return Commit(sha=full, branch=branch, author=author, subject=subject, committed_at=at)

    def has(self, sha: str) -> bool:
        """Return whether the commit is there, with its root tree."""
        return self._types([f"{sha}^{{commit}}", f"{sha}^{{tree}}"]) == ["commit", "tree"]

    def kind(self, sha: str, path: str) -> str | None:
        """Return `tree` or `blob`, or None when the commit has nothing at `path` ("" is the root)."""
        return self._types([f"{sha}^{{tree}}" if not path else f"{sha}:{path}"])[0]

    def _types(self, names: list[str]) -> list[str | None]:
        stdin = "".join(f"{name}\n" for name in names).encode(errors="surrogateescape")
        lines = self._command.run("cat-file", "--batch-check=%(objecttype)", stdin=stdin).decode().splitlines()
        return [None if line.endswith((" missing", " ambiguous")) else line for line in lines]

    def files(self, treeish: str, path: str = "") -> tuple[Entry, ...]:
        """Return every file, link and submodule below `path`, named from the tree's root, sorted."""
        under = ["--", path] if path else []
        out = self._command.run("ls-tree", "-r", "-z", "-l", "--full-tree", treeish, *under)
        return tuple(sorted(_entry(record) for record in out.split(b"\0") if record))

    def folders(self, commit: str) -> Mapping[str, str]:
        """Return the tree id of every folder of a commit; the root's path is ""."""
        out = self._command.run("ls-tree", "-r", "-d", "-z", "--full-tree", commit)
        entries = [_entry(record) for record in out.split(b"\0") if record]
        root = self._command.run("rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}").decode().strip()
        return {"": root} | {entry.path: entry.oid for entry in entries if entry.mode == TREE}

    def blob_ids(self, commit: str, paths: Iterable[str]) -> dict[str, str]:
        """Return the blob ids of those paths that the commit has as files."""
        wanted = list(paths)
        stdin = "".join(f"{commit}:{path}\n" for path in wanted).encode(errors="surrogateescape")
        lines = self._command.run("cat-file", "--batch-check=%(objecttype) %(objectname)", stdin=stdin).splitlines()
        return {
            path: line.split()[1].decode()
            for path, line in zip(wanted, lines, strict=True)
            if line.startswith(b"blob ")
        }

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
        with tempfile.TemporaryDirectory(dir=self._command.repository, prefix="index-") as folder:
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
