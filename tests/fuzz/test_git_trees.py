"""Whatever a commit holds, it is read and packaged or refused in words: no crash, no hang, no way out of it."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st

from reconciler.adapters.git_command import GitFailed
from reconciler.adapters.git_location import locate
from reconciler.adapters.git_mirror import Mirror
from reconciler.adapters.git_specs import CommitReader
from reconciler.errors import Stalled
from tests.fuzz.budget import fuzz
from tests.origin import Origin, git

SPEC = b"""\
apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {name: chat}
spec:
  application:
    import_path: app:build
    runtime_env: {working_dir: DIR}
    deployments: [{name: Chat}]
"""
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
names = st.one_of(
    st.sampled_from([b"a", b"b.yaml", b"app", b"..", b".", b".git", b"a/b", b"\\", b"C:x", b"con", b".gitattributes"]),
    st.binary(min_size=1, max_size=6).map(lambda name: name.replace(b"\0", b"x")),
)
contents = st.one_of(
    st.sampled_from([b"", LFS, b"/etc/passwd", b"../../../etc/passwd", b"a", b"app", b".", b"* export-ignore\n"]),
    st.sampled_from([b".", b"app", b"..", b"/"]).map(lambda folder: SPEC.replace(b"DIR", folder)),
    st.binary(max_size=40),
)
modes = st.sampled_from([b"100644", b"100755", b"120000", b"160000", b"40000", b"100664", b"20644", b"0"])
trees = st.recursive(
    st.lists(st.tuples(modes, names, contents), max_size=4),
    lambda inner: st.lists(st.one_of(st.tuples(modes, names, contents), st.tuples(names, inner)), max_size=4),
    max_leaves=10,
)
dates = st.sampled_from(["1 +0000", "99999999999999999999 +0000", "-5 +9999", "x"])


class Writer:
    """Writes objects as they are, right or wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, kind: str, content: bytes) -> str:
        return git(self.folder, "hash-object", "-t", kind, "-w", "--literally", "--stdin", stdin=content)

    def tree(self, entries: object) -> str:
        raw = b""
        for entry in entries:  # type: ignore[attr-defined]
            if len(entry) == 3:
                mode, name, content = entry
                raw += mode + b" " + name + b"\0" + bytes.fromhex(self.write("blob", content))
            else:
                name, below = entry
                raw += b"40000 " + name + b"\0" + bytes.fromhex(self.tree(below))
        return self.write("tree", raw)


class Reading:
    """Commits whatever it is given, and reads it as the daemon does."""

    def __init__(self, folder: Path) -> None:
        origin = Origin(folder / "origin")
        origin.commit({"README.md": "x"})
        self.writer = Writer(origin.folder)
        self._mirror = Mirror(origin.folder / ".git", locate(str(origin.folder)), "main")

    def check(self, value: object) -> None:
        entries, date = value  # type: ignore[misc]
        self._check(self.writer.tree(entries), date)

    def check_tree(self, raw: bytes) -> None:
        """Read a commit whose tree is these bytes."""
        self._check(self.writer.write("tree", raw), "1 +0000")

    def _check(self, tree: str, date: str) -> None:
        raw = f"tree {tree}\nauthor A <a> {date}\ncommitter C <c> {date}\n\nm\n"
        sha = self.writer.write("commit", raw.encode())
        reader = CommitReader(self._mirror.objects, "")
        with suppress(GitFailed):
            desired = reader.read(sha, "main").desired
            for error in desired.errors:
                assert error.line >= 1
            for service in desired.services:
                for package in service.revision.packages:
                    with suppress(Stalled, GitFailed):
                        packed = zipfile.ZipFile(io.BytesIO(reader.packer.package(package)))
                        for name in packed.namelist():
                            assert not name.startswith("/"), name
                            assert ".." not in name.split("/"), name


def test_any_commit_is_read_or_refused(tmp_path: Path) -> None:
    assert fuzz(st.tuples(trees, dates), Reading(tmp_path).check, slowest=20.0) > 3
