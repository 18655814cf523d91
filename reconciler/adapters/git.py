"""The Git source: services and code of the newest commit of one branch, always from the commit's own tree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from reconciler.adapters.git_access import OPEN, GitAccess
from reconciler.adapters.git_command import Failure, GitFailed, in_thread
from reconciler.adapters.git_location import check_branch, clean_path, locate
from reconciler.adapters.git_mirror import Mirror
from reconciler.adapters.git_refs import LocalRefs
from reconciler.adapters.git_specs import CommitReader
from reconciler.adapters.git_trust import NO_QUESTIONS, Trust, Warden
from reconciler.adapters.packaging import MAX_PACKAGE_BYTES
from reconciler.adapters.secrets import Vault
from reconciler.errors import Retry, Stalled
from reconciler.ports import Clock, Outlook, Reading
from reconciler.waking import sleep_until_woken
from specs.commit_notes import CommitNote
from specs.desired import Desired, PackageRef
from specs.parse import Specs
from specs.reasons import Reason
from specs.unread import with_lost

_FIRST_RETRY = timedelta(seconds=1)
_STAMP_EVERY = timedelta(minutes=1)
NUDGE_GAP = timedelta(seconds=1)
"""Between looks that nudges ask for, as long as nudges come: a thousand pushes a minute are sixty looks."""

Count = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class GitSettings:
    """Which branch of which repository, and how patient to be."""

    url: str
    """A local path or a URL; may hold a name and password."""
    state: Path
    """The daemon's state folder; the mirror is `git` in it."""
    branch: str = "main"
    path: str = ""
    """The folder (or file) with the specs; "" is the whole repository."""
    interval: timedelta = timedelta(seconds=30)
    """How often a URL is asked for its branch."""
    query_limit: timedelta = timedelta(seconds=20)
    fetch_limit: timedelta = timedelta(minutes=10)
    max_package_bytes: int = MAX_PACKAGE_BYTES
    access: GitAccess = OPEN
    trust: Trust = NO_QUESTIONS
    vault: Vault | None = None
    """Seals the secrets that specs name; None leaves them unsealed."""


def _ignore(_kind: str, _outcome: str) -> None:
    pass


class GitSource:
    """Implements `reconciler.ports.Source`."""

    def __init__(self, settings: GitSettings, clock: Clock, count: Count = _ignore) -> None:
        """`count` is told the kind and outcome of each request. Raises Stalled when the settings cannot be right."""
        location = locate(settings.url)
        self._settings = settings
        self._clock = clock
        self._count = count
        self._shown = location.shown
        self._path = clean_path(settings.path)
        self._mirror = Mirror(settings.state / "git", location, check_branch(settings.branch), settings.access)
        self._reader = CommitReader(self._mirror.objects, self._path, settings.max_package_bytes)
        self._proposals = CommitReader(self._mirror.objects, self._path, settings.max_package_bytes)
        self._proposing = asyncio.Lock()
        self._warden = Warden(self._mirror.command, settings.trust, settings.state)
        self._refs = LocalRefs(location.folder, settings.branch) if location.folder else None
        self._lock = asyncio.Lock()
        self._desired: Desired | None = None
        self._refused = ("", "")
        self._looked_at: str | None = None
        self._notes: tuple[CommitNote, ...] = ()
        self._read_at: datetime | None = None
        self._stamped_at: datetime | None = None
        self._problem = ""
        self._failures = 0
        self._next_query: datetime | None = None
        self._looked_last: datetime | None = None
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Look soon: somebody says that the branch moved. Many nudges are one look."""
        self._nudged.set()

    async def read(self) -> Reading:
        """Return the newest commit's services; keeps and returns the last ones when Git fails."""
        is_busy = self._lock.locked() and self._desired is not None
        if not is_busy and await self._is_overdue():
            await self._refresh()
        return self._reading()

    async def changed(self, after: Outlook) -> Outlook:
        """Return the outlook as soon as it is another one: a commit, trouble, or the end of trouble."""
        if self._refs is None:
            while self._outlook() == after:
                await self._until_due()
                await self._refresh()
            return self._outlook()
        async with aclosing(self._refs.stirs(self._clock)) as stirs:
            async for _ in stirs:
                if await self._has_moved():
                    await self._refresh()
                if self._outlook() != after:
                    break
        return self._outlook()

    async def package(self, ref: PackageRef) -> bytes:
        """Return the deterministic zip of a folder at a commit. Raises Stalled when it cannot be packed."""
        try:
            return await in_thread(self._reader.packer.package, ref)
        except GitFailed as error:
            self._count("package", error.failure.value)
            text = f"cannot package {ref.path or '.'!r} of commit {ref.commit[:12]}: {error.text}"
            if error.failure is Failure.TIMEOUT:
                raise Retry(text, timedelta(seconds=5)) from error
            raise Stalled(f"{text}; is the commit still in {self._shown}?") from error

    async def keep(self, commits: frozenset[str]) -> frozenset[str]:
        """Keep exactly these commits readable; return those that neither the mirror nor the repository has any more."""
        try:
            await in_thread(self._mirror.prepare)
            return await in_thread(self._mirror.keep, commits, self._settings.query_limit)
        except (GitFailed, OSError) as error:
            raise Retry(f"cannot keep commits in {self._settings.state / 'git'}: {error}") from error

    async def specs_at(self, commit: str) -> Specs:
        """Return what any commit of the repository wants, its secrets not looked at. Only text is read, nothing runs.

        Raises Stalled when the repository has no such commit or it cannot be read, Retry when Git does not answer.
        """
        async with self._proposing:
            try:
                await in_thread(self._mirror.prepare)
                if not await in_thread(self._mirror.obtain, commit, self._settings.query_limit):
                    raise Stalled(f"{self._shown} has no commit {commit[:40]!r} that can be fetched: push it first")
                return await in_thread(self._proposals.read, commit, self._settings.branch)
            except GitFailed as error:
                if error.failure is Failure.TIMEOUT:
                    raise Retry(error.text, timedelta(seconds=5)) from error
                raise Stalled(error.text) from error

    async def pin(self, commit: str) -> None:
        """Follow a commit instead of the branch, until the branch contains it or `release`; it survives restarts.

        The commit must come after the one that is live, be vouched for as one of the branch has to be, and have no
        mistake in its files. Raises Stalled when it does not, Retry when Git does not answer.
        """
        found = await self.specs_at(commit)
        known = self._desired.services if self._desired is not None else ()
        policy_path = self._desired.policy_path if self._desired is not None else ""
        if errors := with_lost(found.desired, known, policy_path).errors:
            raise Stalled(f"commit {commit[:12]} has mistakes: {errors[0]}")
        async with self._lock:
            live = self._desired.commit.sha if self._desired is not None else commit
            if not await in_thread(self._mirror.contains, commit, live):
                raise Stalled(
                    f"commit {commit[:12]} does not come after {live[:12]}, which is live: bring it up to date"
                )
            if fault := await self._fault(commit):
                raise Stalled(f"commit {commit[:12]} is not followed: {fault}")
            await in_thread(self._mirror.pin, commit)
        await self._refresh()

    async def release(self) -> str | None:
        """Follow the branch again; return the commit that was followed instead of it, None when there was none."""
        async with self._lock:
            pinned = await in_thread(self._mirror.pinned)
            if pinned is not None:
                await in_thread(self._mirror.unpin)
        await self._refresh()
        return pinned

    def packaged(self, ref: PackageRef) -> Mapping[str, str]:
        """Return the files of a package of a commit that `specs_at` read. Blocking."""
        return self._proposals.packaged(ref)

    def age(self) -> timedelta | None:
        """Return how long ago the branch was last known to be at the commit that is served."""
        return self._clock.now() - self._read_at if self._read_at else None

    # -- when to look ------------------------------------------------------------------------------

    async def _is_overdue(self) -> bool:
        """Return whether `read` must look itself, because `changed` is not being awaited."""
        if self._next_query is None:
            return True
        if self._refs is not None:
            return await self._has_moved()
        return self._clock.now() > self._next_query + self._settings.interval

    async def _has_moved(self) -> bool:
        """Return whether a local repository's branch moved since it was looked at, or trouble is due another try."""
        if self._refs is None or self._next_query is None:
            return True
        if (self._problem or self._is_held or self._has_secrets) and self._clock.now() >= self._next_query:
            return True
        try:
            tip = await in_thread(self._refs.tip)
        except GitFailed:
            return not self._problem
        if tip == self._looked_at and not self._problem and not self._is_held:
            await self._confirm()
        return tip != self._looked_at

    def _until_query(self) -> timedelta:
        return self._next_query - self._clock.now() if self._next_query else timedelta(0)

    async def _until_due(self) -> None:
        """Wait for the interval or a nudge, whichever comes first, but never look more often than `NUDGE_GAP`."""
        await sleep_until_woken(self._clock, self._until_query(), self._nudged)
        if self._nudged.is_set() and self._looked_last is not None:
            early = self._looked_last + NUDGE_GAP - self._clock.now()
            if early > timedelta(0):
                await self._clock.sleep(early)

    def _schedule(self) -> None:
        """Set when to look again: after an interval, sooner while trouble is fresh, spread so that daemons differ."""
        wait = self._settings.interval
        if self._problem:
            wait = min(wait, _FIRST_RETRY * 2 ** min(self._failures - 1, 16))
        self._next_query = self._clock.now() + wait * random.uniform(0.9, 1.1)  # noqa: S311 (jitter, not a secret)

    # -- looking -----------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Look once, and read the commit when it is a new one."""
        async with self._lock:
            self._nudged.clear()
            self._looked_last = self._clock.now()
            try:
                if self._next_query is None:
                    await self._recover()
                await self._look()
            except (GitFailed, OSError) as error:
                self._failures += 1
                self._problem = error.text if isinstance(error, GitFailed) else str(error)
            else:
                self._failures = 0
                self._problem = ""
                if not self._is_held:
                    await self._confirm()
            self._schedule()

    async def _recover(self) -> None:
        """After a start: serve what an earlier run read, in case the repository cannot be reached now."""
        await in_thread(self._mirror.prepare)
        accepted = await in_thread(self._mirror.pinned) or await in_thread(self._mirror.accepted)
        if accepted is not None:
            with suppress(GitFailed):  # a damaged mirror is mended when the repository is looked at
                self._desired = await in_thread(self._parse, accepted)
                self._read_at = await in_thread(self._mirror.read_at)

    async def _look(self) -> None:
        self._looked_at = None
        self._looked_at = tip = await self._tip()
        if await self._is_pinned_beside(tip):
            return
        live = self._desired.commit.sha if self._desired is not None else None
        if tip == live:
            self._notes = tuple(note for note in self._notes if not note.is_refused)
            if self._settings.vault is not None and await in_thread(self._settings.vault.has_changed):
                self._desired = await self._parse_whole(tip)
            return
        if tip == self._refused[0]:
            raise GitFailed(Failure.OTHER, self._refused[1])
        self._looked_at = tip = await self._fetch(tip)
        # A pin that was released never was on the branch: it is judged by the branch's own last commit.
        before = (await in_thread(self._mirror.accepted) or live) if live is not None else None
        self._notes = await in_thread(self._warden.judge, before, tip, await self._fault(tip))
        if self._is_held:
            return
        try:
            self._desired = await self._parse_whole(tip)
        except GitFailed as error:
            if error.failure is Failure.OTHER:
                self._refused = (tip, error.text)
            raise
        await in_thread(self._accept, self._desired)

    def _accept(self, desired: Desired) -> None:
        self._mirror.accept(desired.commit.sha)
        if desired.is_policy_known:
            self._mirror.release_policy()

    async def _is_pinned_beside(self, tip: str) -> bool:
        """Return whether another commit than the branch's is followed; a branch that contains it ends that."""
        pinned = await in_thread(self._mirror.pinned)
        if pinned is None:
            return False
        self._looked_at = tip = await self._fetch(tip)
        if await in_thread(self._mirror.contains, tip, pinned):
            await in_thread(self._mirror.unpin)
            return False
        if self._desired is None or self._desired.commit.sha != pinned:
            self._desired = await self._parse_whole(pinned)
        text = f"a plan of commit {pinned[:12]} was applied; the branch, at {tip[:12]}, waits until it contains that"
        self._notes = (CommitNote(commit=tip, reason=Reason.PINNED, message=text, is_refused=True),)
        return True

    async def _fault(self, tip: str) -> str:
        """Return why nobody vouches for a commit; only then is it worth asking for the tags."""
        found = await in_thread(self._warden.fault, tip)
        if not found:
            return ""
        tags = await in_thread(self._mirror.tags_at, tip, self._settings.fetch_limit)
        return await in_thread(self._warden.fault, tip, tags) if tags else found

    @property
    def _is_held(self) -> bool:
        """Return whether the branch's newest commit is refused, and the one before is held to."""
        return any(note.is_refused for note in self._notes)

    async def _parse_whole(self, tip: str) -> Desired:
        """Parse a commit; bring all of its objects again when the mirror has lost some."""
        try:
            return await in_thread(self._parse, tip)
        except GitFailed as error:
            if error.failure is not Failure.CORRUPT:
                raise
        await self._counted("refetch", self._mirror.refetch, self._settings.fetch_limit)
        return await in_thread(self._parse, tip)

    async def _tip(self) -> str:
        if self._refs is not None:
            return await in_thread(self._refs.tip)
        return await self._counted("query", self._mirror.remote_tip, self._settings.query_limit)

    async def _fetch(self, tip: str) -> str:
        if await in_thread(self._mirror.tip) == tip:
            return tip
        fetched = await self._counted("fetch", self._mirror.fetch, self._settings.fetch_limit)
        try:
            await in_thread(self._mirror.clean)
        except GitFailed as error:
            self._count("clean", error.failure.value)  # costs speed only; tried again after as many fetches
        return fetched

    async def _counted(self, kind: str, request: Callable[[timedelta], str], limit: timedelta) -> str:
        try:
            answer = await in_thread(request, limit)
        except GitFailed as error:
            self._count(kind, error.failure.value)
            raise
        self._count(kind, "ok")
        return answer

    def _parse(self, sha: str) -> Desired:
        desired = self._with_policy(self._reader.read(sha, self._settings.branch).desired)
        try:
            return self._settings.vault.seal(desired) if self._settings.vault else desired
        except Retry as error:
            raise GitFailed(Failure.UNREACHABLE, f"commit {sha[:12]}: {error.reason}") from error

    def _with_policy(self, desired: Desired) -> Desired:
        """Return a commit whose ClusterPolicy cannot be read with the last one that could, restarts or not.

        Without it windows would open and budgets grow because a file is wrong, or a folder is a submodule now.
        """
        before = self._desired if self._desired is not None else self._held(desired)
        if before is None:
            return desired
        desired = with_lost(desired, (), before.policy_path)
        if desired.is_policy_known:
            return desired
        if before is self._desired and before.is_policy_known:
            self._mirror.hold_policy(before.commit.sha)
        return replace(desired, settings=before.settings, policy_path=before.policy_path)

    def _held(self, desired: Desired) -> Desired | None:
        """Return, after a start, the commit whose ClusterPolicy an earlier run kept in force, if that may matter."""
        may_be_lost = not desired.is_policy_known or desired.unread
        held = self._mirror.held_policy() if may_be_lost else None
        if held is None:
            return None
        reader = CommitReader(self._mirror.objects, self._path, self._settings.max_package_bytes)
        return reader.read(held, self._settings.branch).desired

    @property
    def _has_secrets(self) -> bool:
        return self._settings.vault is not None and self._settings.vault.is_used

    async def _confirm(self) -> None:
        """Note that the branch is at the commit that is served; now and then also for the next start."""
        self._read_at = now = self._clock.now()
        if self._stamped_at is None or now - self._stamped_at >= _STAMP_EVERY:
            with suppress(OSError):  # a wrong age after the next start is not worth a problem now
                await in_thread(self._mirror.set_read_at, now)
            self._stamped_at = now

    # -- telling -----------------------------------------------------------------------------------

    def _outlook(self) -> Outlook:
        return self._reading().outlook

    def _reading(self) -> Reading:
        problem = f"{self._shown} branch {self._settings.branch}: {self._problem}; {self._since()}"
        return Reading(
            desired=self._desired,
            read_at=self._read_at,
            problem=problem if self._problem else "",
            notes=self._notes,
        )

    def _since(self) -> str:
        if self._desired is None:
            return "no commit was read yet"
        age = self.age()
        ago = f"last seen {_spell(age)} ago" if age is not None else "of unknown age"
        return f"holding to commit {self._desired.commit.sha[:12]}, {ago}"


def _spell(age: timedelta) -> str:
    seconds = max(round(age.total_seconds()), 0)
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
