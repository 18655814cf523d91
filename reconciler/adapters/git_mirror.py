"""The daemon's own bare clone: what was fetched stays readable, whatever happens to the branch or its host."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from reconciler.adapters.git_access import OPEN, GitAccess
from reconciler.adapters.git_command import Failure, GitCommand, GitFailed
from reconciler.adapters.git_location import Location
from reconciler.adapters.git_objects import Objects

KEEP = "refs/heliostat/keep/"
FETCHES_PER_CLEANING = 100
"""Each fetch leaves a pack or loose objects behind; thousands of them make every read slow."""

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_CLEANING_LIMIT = timedelta(minutes=5)


class Mirror:
    """One branch of one repository, and every commit that is to be kept. Blocking: call it in a thread."""

    def __init__(self, folder: Path, location: Location, branch: str, access: GitAccess = OPEN) -> None:
        """`folder` is made when first needed; it may hold mirrors of other branches too."""
        self.command = GitCommand(folder, location, access)
        self.objects = Objects(self.command)
        self._folder = folder
        self._location = location
        self._branch = branch
        watched = hashlib.sha256(f"{location.shown}\0{branch}".encode()).hexdigest()[:12]
        self._tip = f"refs/heliostat/tip/{watched}"
        self._accepted = f"refs/heliostat/accepted/{watched}"
        self._tags = f"refs/heliostat/tags/{watched}/"
        self._pinned_ref = f"refs/heliostat/pinned/{watched}"
        self._policy_ref = f"refs/heliostat/policy/{watched}"
        self._stamp = folder / f"read-at-{watched}"
        self._writing = threading.Lock()
        self._fetches = 0
        self._known: Mapping[str, str] | None = None
        """Our refs of this branch, as nobody else writes to them; None when they are to be read again."""

    def prepare(self) -> None:
        """Make the repository, or make it anew when it is no longer one; nobody else writes to it."""
        with self._writing:
            self._known = None
            self._sweep()
            for leftover in self._folder.glob("index-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if not (self._folder / "HEAD").exists():
                self._init()
                return
            try:
                self.command.run("rev-parse", "--git-dir")
            except GitFailed as error:
                if error.failure is not Failure.OTHER:
                    raise
                self._set_aside()
                self._init()

    def _init(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.command.run("init", "--bare", "--quiet", "--template=", str(self._folder))

    def _set_aside(self) -> None:
        """Keep a damaged mirror for a person to look at; commits still in use are asked for by id."""
        damaged = self._folder.with_name(f"{self._folder.name}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        self._folder.rename(damaged)

    def _sweep(self) -> None:
        """Remove the locks of git processes that were killed: they would block every later fetch."""
        for pattern in ("*.lock", "refs/**/*.lock"):
            for lock in self._folder.glob(pattern):
                lock.unlink(missing_ok=True)

    def accept(self, sha: str) -> None:
        """Remember the commit as the last one that could be read whole."""
        self._write_ref(self._accepted, sha)

    def accepted(self) -> str | None:
        """Return the commit that was accepted last, or None."""
        return self._resolve(self._accepted)

    def hold_policy(self, sha: str) -> None:
        """Remember, over restarts, a commit whose ClusterPolicy stays in force while newer ones have a wrong one."""
        self._write_ref(self._policy_ref, sha)

    def held_policy(self) -> str | None:
        """Return the commit that was remembered for its ClusterPolicy last, or None."""
        return self._resolve(self._policy_ref)

    def release_policy(self) -> None:
        """Forget the commit that was remembered for its ClusterPolicy: a newer one says what holds."""
        if self.held_policy() is not None:
            self._write_ref("-d", self._policy_ref)

    def pin(self, sha: str) -> None:
        """Remember, over restarts, that this commit is followed instead of the branch."""
        self._write_ref(self._pinned_ref, sha)

    def unpin(self) -> None:
        """Follow the branch again."""
        self._write_ref("-d", self._pinned_ref)

    def pinned(self) -> str | None:
        """Return the commit that is followed instead of the branch, or None."""
        return self._resolve(self._pinned_ref)

    def contains(self, descendant: str, ancestor: str) -> bool:
        """Return whether a commit is another one, or comes after it."""
        try:
            return self.command.run("merge-base", ancestor, descendant).decode().strip() == ancestor
        except GitFailed:
            return False  # They have no commit in common.

    def tip(self) -> str | None:
        """Return the commit that was fetched last, or None."""
        return self._resolve(self._tip)

    def _resolve(self, ref: str) -> str | None:
        """Return where one of our refs points: each process costs as much as reading a hundred unchanged specs."""
        known = self._known
        if known is None:
            refs = (self._tip, self._accepted, self._pinned_ref, self._policy_ref)
            try:
                out = self.command.run("for-each-ref", "--format=%(objectname) %(refname)", *refs).decode()
            except GitFailed:
                return None
            known = self._known = {name: sha for sha, _, name in (line.partition(" ") for line in out.splitlines())}
        return known.get(ref)

    def _write_ref(self, *arguments: str) -> None:
        with self._writing:
            self._known = None
            self.command.run("update-ref", *arguments)
            self._known = None

    def remote_tip(self, limit: timedelta) -> str:
        """Ask the repository for its branch's commit: one small answer, however large it is."""
        ref = f"refs/heads/{self._branch}"
        out = self.command.run("ls-remote", "--quiet", "--", self._location.address, ref, limit=limit)
        for line in out.decode(errors="replace").splitlines():
            sha, _, name = line.partition("\t")
            if name == ref and _SHA.fullmatch(sha):
                return sha
        raise GitFailed(Failure.NO_BRANCH, f"it has no branch {self._branch!r}")

    def fetch(self, limit: timedelta) -> str:
        """Bring the branch's newest commit and return it. The old one stays readable until it is cleaned away."""
        with self._writing:
            self._fetch(f"+refs/heads/{self._branch}:{self._tip}", limit)
            self._fetches += 1
        sha = self.tip()
        if sha is None:
            raise GitFailed(Failure.CORRUPT, "the fetched commit cannot be read back from the mirror")
        return sha

    def refetch(self, limit: timedelta) -> str:
        """Bring the branch with all of its objects, also those that seem to be here."""
        with self._writing:
            self._fetch(f"+refs/heads/{self._branch}:{self._tip}", limit, "--refetch")
        return self.tip() or ""

    def _fetch(self, refspec: str, limit: timedelta, *options: str) -> None:
        self._known = None
        self._sweep()
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules")
        try:
            self.command.run("fetch", *quiet, *options, "--", self._location.address, refspec, limit=limit)
        except GitFailed as error:
            if error.failure is Failure.NO_BRANCH:
                raise GitFailed(Failure.NO_BRANCH, f"it has no branch {self._branch!r}") from None
            raise

    def tags_at(self, sha: str, limit: timedelta) -> tuple[str, ...]:
        """Bring the repository's tags and return the annotated ones that point at a commit."""
        with self._writing:
            self._fetch(f"+refs/tags/*:{self._tags}*", limit, "--prune")
        out = self.command.run(
            "for-each-ref", f"--points-at={sha}", "--format=%(objecttype) %(refname)", self._tags
        ).decode(errors="replace")
        return tuple(line.split(" ", 1)[1] for line in out.splitlines() if line.startswith("tag "))

    def keep(self, commits: frozenset[str], limit: timedelta) -> frozenset[str]:
        """Pin exactly these commits; return those that cannot be had any more."""
        with self._writing:
            pinned = self._pinned()
            missing = frozenset(sha for sha in commits - pinned if not self._obtain(sha, limit))
            changes = [f"update {KEEP}{sha} {sha}\n" for sha in sorted(commits - pinned - missing)]
            changes += [f"delete {KEEP}{sha}\n" for sha in sorted(pinned - commits)]
            if changes:
                self.command.run("update-ref", "--stdin", stdin="".join(changes).encode())
        return missing

    def _pinned(self) -> frozenset[str]:
        names = self.command.run("for-each-ref", "--format=%(refname)", KEEP).decode().split()
        return frozenset(name.removeprefix(KEEP) for name in names)

    def _obtain(self, sha: str, limit: timedelta) -> bool:
        """Return whether a commit is there, asking the repository for it by its id when it is not."""
        if not _SHA.fullmatch(sha):
            return False
        if self.objects.has(sha):
            return True
        try:
            self._fetch(f"+{sha}:{KEEP}{sha}", limit)
        except GitFailed:
            return False
        return self.objects.has(sha)

    def obtain(self, sha: str, limit: timedelta) -> bool:
        """Return whether a commit can be read, asking the repository for it by its id; it is not kept for long."""
        if not _SHA.fullmatch(sha):
            return False
        if self.objects.has(sha):
            return True
        with self._writing, suppress(GitFailed):
            self._fetch(sha, limit)
        return self.objects.has(sha)

    def clean(self) -> None:
        """Repack now and then. Commits that no ref holds go after git's two weeks of grace."""
        if self._fetches >= FETCHES_PER_CLEANING:
            self._fetches = 0
            with self._writing:
                self.command.run("-c", "gc.auto=6700", "gc", "--auto", "--quiet", limit=_CLEANING_LIMIT)

    def read_at(self) -> datetime | None:
        """Return when the branch was last known to be at `tip`, also after a restart."""
        try:
            return datetime.fromisoformat(self._stamp.read_text().strip())
        except (OSError, ValueError):
            return None

    def set_read_at(self, at: datetime) -> None:
        """Remember when the branch was last known to be at `tip`."""
        fresh = self._stamp.with_suffix(".new")
        fresh.write_text(at.isoformat())
        fresh.replace(self._stamp)
