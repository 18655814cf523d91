"""A person's or a build's own repository, read commit by commit as the daemon reads its mirror; nothing is changed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconciler.adapters.git_command import Failure, GitCommand, GitFailed
from reconciler.adapters.git_location import Location
from reconciler.adapters.git_objects import Objects
from reconciler.adapters.git_specs import CommitReader
from reconciler.errors import Stalled
from specs.desired import PackageRef
from specs.parse import Specs

_TRUNKS = ("@{upstream}", "refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/heads/main")
"""Where a change is headed when nothing else is said, the likeliest first."""


class Checkout:
    """The repository around a folder. Blocking. Raises Stalled with what to do when it cannot be read."""

    def __init__(self, folder: Path, path: str = "") -> None:
        """`path` is the folder with the specs, from the repository's root."""
        found = repository_around(folder)
        self.root = found
        location = Location(address=str(found), shown=str(found), folder=found)
        self._command = GitCommand(_git_folder(found), location)
        self._scratch = tempfile.TemporaryDirectory(prefix="heliostat-plan-")
        self._objects = Objects(self._command, Path(self._scratch.name))
        self._reader = CommitReader(self._objects, path)

    def close(self) -> None:
        """Remove what was written for git's own use."""
        self._scratch.cleanup()

    def commit(self, revision: str) -> str:
        """Return the id of the commit that a person names."""
        found = self._resolve(revision)
        if found is None:
            hint = "; a shallow clone has only its newest commits (fetch-depth: 0)" if self._is_shallow() else ""
            raise Stalled(f"{revision!r} is no commit here: name a branch, a tag or a commit's id{hint}")
        return found

    def fork_of(self, head: str) -> str:
        """Return the commit that a change is compared with when none is named.

        Where `head` left the branch that it is headed for; its own parent when it is on that branch.
        """
        for trunk in _TRUNKS:
            tip = self._resolve(trunk)
            fork = self._merge_base(tip, head) if tip is not None else None
            if fork is not None and fork != head:
                return fork
        parent = self._resolve(f"{head}~1")
        if parent is None:
            raise Stalled(f"commit {head[:12]} has no parent here to compare it with: name one with --base")
        return parent

    def specs(self, sha: str, branch: str = "") -> Specs:
        """Return what a commit wants."""
        try:
            return self._reader.read(sha, branch)
        except GitFailed as error:
            raise Stalled(error.text) from error

    def packaged(self, ref: PackageRef) -> Mapping[str, str]:
        """Return the files of a package, each with what tells its contents apart."""
        try:
            return self._reader.packaged(ref)
        except GitFailed as error:
            raise Stalled(error.text) from error

    def has(self, sha: str) -> bool:
        """Return whether a commit is here."""
        return self._objects.has(sha)

    def proposal(self, sha: str) -> dict[str, Any]:
        """Return a commit's specs and the ids of the folders that they package, for a daemon to plan."""
        specs = self.specs(sha)
        files, bases, unread = self._reader.files(sha), self._reader.consulted(), self._reader.unread(sha)
        packages = {
            (package.path, package.keep_folder): package.tree
            for service in specs.desired.services
            for package in service.revision.packages
        }
        odd = [{"path": one.path, "kind": one.kind.value, "isSpec": one.is_spec} for one in unread]
        return {
            "commit": specs.desired.commit.sha,
            "subject": specs.desired.commit.subject,
            # What is no UTF-8 goes as it is, for the daemon to find the mistake as it would in the commit.
            "files": {path: text.decode(errors="surrogateescape") for path, text in sorted(files.items())},
            "bases": {
                path: text.decode(errors="surrogateescape") for path, text in sorted(bases.items()) if path not in files
            },
            "folders": [
                {"path": path, "keepFolder": keep, "tree": tree} for (path, keep), tree in sorted(packages.items())
            ],
            # Only where there is any: a daemon that is older than this command refuses words that it does not know.
            **({"unread": odd} if odd else {}),
        }

    def _resolve(self, revision: str) -> str | None:
        if revision.startswith("-"):
            return None
        try:
            out = self._command.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except GitFailed as error:
            if error.failure is Failure.TIMEOUT:
                raise Stalled(error.text) from error
            return None
        return out.decode().split()[-1]

    def _merge_base(self, one: str, other: str) -> str | None:
        try:
            return self._command.run("merge-base", one, other).decode().strip()
        except GitFailed:
            return None

    def _is_shallow(self) -> bool:
        return (self._command.repository / "shallow").exists()


def repository_around(folder: Path) -> Path:
    """Return the root of the working copy that holds `folder`, or `folder` itself when it is a bare repository.

    A bare repository inside of a working copy is a part of what was committed there: its configuration, which may
    name programs for git to run, is whoever's that wrote the commit.
    """
    start = folder.resolve()
    for parent in (start, *start.parents):
        if (parent / ".git").exists():
            return parent
    if _is_bare(start):
        return start
    raise Stalled(f"{folder} is in no Git repository: run this inside of one, or name one with --repo")


def _is_bare(folder: Path) -> bool:
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()


def _git_folder(root: Path) -> Path:
    """Return where the objects are: a linked work tree and a submodule name that place in a file."""
    marker = root / ".git"
    if marker.is_dir():
        return marker
    if not marker.exists():
        return root
    named = marker.read_text(errors="replace").partition("gitdir:")[2].strip()
    if not named:
        raise Stalled(f"{marker} does not say where the repository is")
    return (root / named).resolve()
