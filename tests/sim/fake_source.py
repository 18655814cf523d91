"""A Git repository in memory: pushes, rewrites and troubles on command. Shares its contract with the real one.

It knows no `.gitattributes`, links or size limits.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from reconciler.adapters import packaging
from reconciler.adapters.git_objects import Entry
from reconciler.errors import Stalled
from reconciler.ports import Clock, Outlook, Reading
from specs.commit_notes import CommitNote
from specs.desired import ClusterSettings, Commit, Desired, DesiredService, PackageRef, SpecError
from specs.parse import is_spec_file, read_desired


@dataclass(frozen=True, kw_only=True)
class _Pushed:
    desired: Desired
    files: Mapping[str, bytes]


class FakeSource:
    """Implements `reconciler.ports.Source`."""

    def __init__(self, clock: Clock, branch: str = "main") -> None:
        self._clock = clock
        self._branch = branch
        self._stirred = asyncio.Event()
        self._pushed: dict[str, _Pushed] = {}
        self._kept: frozenset[str] = frozenset()
        self._tip: str | None = None
        self._served: _Pushed | None = None
        self._read_at: datetime | None = None
        self._problem = ""
        self.notes: tuple[CommitNote, ...] = ()
        """What is said of the newest commit; a test that refuses one pushes nothing."""

    # -- what users and accidents do ---------------------------------------------------------------

    def push(
        self, *services: DesiredService, errors: tuple[SpecError, ...] = (), settings: ClusterSettings | None = None
    ) -> Commit:
        """Commit these services, parsed already; their packages have their tree ids as content."""
        named = sorted(services, key=lambda service: service.name)
        commit = self._commit(repr((named, errors, settings)).encode())
        desired = Desired(commit=commit, services=tuple(named), errors=errors, settings=settings or ClusterSettings())
        return self._push(_Pushed(desired=desired, files={}))

    def push_files(self, files: Mapping[str, bytes]) -> Commit:
        """Commit exactly these files; specs are parsed and folders packaged as the real source does."""
        commit = self._commit(repr(sorted(files.items())).encode())
        specs = {path: content for path, content in files.items() if path.endswith((".yaml", ".yml"))}
        desired = read_desired(commit, dict(sorted(specs.items())), _Packages(files))
        return self._push(_Pushed(desired=desired, files=dict(files)))

    def forget_rewritten(self) -> None:
        """Drop every commit but the newest and the kept ones, as a force push and a gc do."""
        self._pushed = {sha: pushed for sha, pushed in self._pushed.items() if sha == self._tip or sha in self._kept}

    def lose_kept(self) -> None:
        """Lose every commit but the newest, the kept ones too, as when the clone is damaged after that."""
        self._kept = frozenset()
        self.forget_rewritten()

    def fail(self, problem: str = "the repository does not answer") -> None:
        """Make the repository unreadable until `mend`."""
        self._problem = problem
        self._stirred.set()

    def mend(self) -> None:
        """End the trouble that `fail` began."""
        self._problem = ""
        self._stirred.set()

    def _commit(self, content: bytes) -> Commit:
        number = len(self._pushed).to_bytes(8, "big")
        sha = hashlib.sha1((self._tip or "").encode() + number + content).hexdigest()
        return Commit(sha=sha, branch=self._branch, author="Ada", subject="Change", committed_at=self._clock.now())

    def _push(self, pushed: _Pushed) -> Commit:
        self._tip = pushed.desired.commit.sha
        self._pushed[self._tip] = pushed
        self._stirred.set()
        return pushed.desired.commit

    # -- the port ----------------------------------------------------------------------------------

    async def read(self) -> Reading:
        """Return the newest commit's services, or the last ones while there is trouble."""
        if not self._problem and self._tip is not None:
            self._served = self._pushed[self._tip]
            self._read_at = self._clock.now()
        desired = self._served.desired if self._served else None
        return Reading(desired=desired, read_at=self._read_at, problem=self._trouble(), notes=self.notes)

    async def changed(self, after: Outlook) -> Outlook:
        """Return when there is another commit than `after`, or trouble began or ended."""
        while self._outlook() == after:
            self._stirred.clear()
            await self._stirred.wait()
        return self._outlook()

    async def package(self, ref: PackageRef) -> bytes:
        """Return the zip of a folder of a pushed commit."""
        pushed = self._pushed.get(ref.commit)
        if pushed is None:
            raise Stalled(f"commit {ref.commit} is gone")
        if not pushed.files:
            return ref.tree.encode()
        folder = _Packages(pushed.files).folder(ref.path, keep_folder=ref.keep_folder)
        if folder is None or folder.id != ref.tree:
            raise Stalled(f"commit {ref.commit} has no folder {ref.path!r} that packs to {ref.tree}")
        return packaging.build(folder, folder.entries, {_oid(content): content for content in pushed.files.values()})

    async def keep(self, commits: frozenset[str]) -> frozenset[str]:
        """Keep exactly these commits when the branch is rewritten; return those that are gone."""
        self._kept = commits & self._pushed.keys()
        return commits - self._kept

    def _outlook(self) -> Outlook:
        served = self._served.desired.commit.sha if self._served else None
        commit = served if self._problem else self._tip
        return Outlook(commit=commit, is_troubled=bool(self._trouble()), notes=self.notes)

    def _trouble(self) -> str:
        return self._problem or ("" if self._tip else f"it has no branch {self._branch!r}")


class _Packages:
    """Implements `specs.parse.PackageIndex` over files in memory."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        folder = self.folder(path, keep_folder=keep_folder)
        return folder.id if folder else None

    def folder(self, path: str, *, keep_folder: bool) -> packaging.Folder | None:
        prefix = f"{path}/" if path else ""
        if not any(name.startswith(prefix) for name in self._files) or (keep_folder and not path):
            return None
        entries = tuple(
            Entry(path=name.removeprefix(prefix), mode="100644", oid=_oid(content), size=len(content))
            for name, content in sorted(self._files.items())
            if name.startswith(prefix) and not (name.endswith((".yaml", ".yml")) and is_spec_file(content))
        )
        return packaging.Folder(shown=path or ".", entries=entries, top=path.rsplit("/", 1)[-1] if keep_folder else "")


def _oid(content: bytes) -> str:
    """Return the id that Git gives a blob, so that packages have the same names here and there."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
