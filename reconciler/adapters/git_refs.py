"""Sees commits in a repository on this machine: reads its refs as files and watches their folders."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import git
from watchfiles import awatch

from reconciler.adapters.git_command import Failure, GitFailed
from reconciler.ports import Clock

GLANCE = timedelta(milliseconds=500)
"""Refs are read this often even without a notification: network file systems send none."""


class LocalRefs:
    """One branch of a repository in a folder: work tree, linked work tree, or bare."""

    def __init__(self, folder: Path, branch: str) -> None:
        """Nothing is read until `tip` is asked for."""
        self._folder = folder
        self._branch = branch

    def tip(self) -> str:
        """Return the branch's commit, read from loose or packed refs without starting a process."""
        with self._open() as repository:
            try:
                return git.SymbolicReference.dereference_recursive(repository, f"refs/heads/{self._branch}")
            except (ValueError, AssertionError, OSError) as error:
                raise GitFailed(Failure.NO_BRANCH, f"it has no branch {self._branch!r}") from error

    def _open(self) -> git.Repo:
        try:
            return git.Repo(self._folder, expand_vars=False)
        except git.NoSuchPathError:
            raise GitFailed(Failure.NOT_FOUND, "the folder does not exist") from None
        except (git.InvalidGitRepositoryError, OSError):
            raise GitFailed(Failure.NOT_FOUND, "the folder is not a Git repository (give its top folder)") from None

    async def stirs(self, clock: Clock) -> AsyncGenerator[None, None]:
        """Yield at every sign that a ref may have moved, and at least every `GLANCE`; the caller looks at `tip`."""
        yield
        while True:
            try:
                async with aclosing(_watch(self._watched())) as signs:
                    async for _ in signs:
                        yield
            except (GitFailed, OSError, RuntimeError):
                # The repository is gone, or the system is out of inotify watches (OSError) or instances, for which
                # watchfiles has a private kind of RuntimeError: glance only.
                await clock.sleep(GLANCE)
                yield

    def _watched(self) -> tuple[Path, ...]:
        """Return the folders whose entries change when a ref moves: of packed-refs, and of each loose ref."""
        with self._open() as repository:
            common = Path(repository.common_dir)
        return (common, common / "refs", *(Path(folder) for folder, _, _ in os.walk(common / "refs" / "heads")))


async def _watch(folders: tuple[Path, ...]) -> AsyncGenerator[None, None]:
    """Yield on each change in the folders themselves, and every `GLANCE`; end when folders came or went."""
    glance = round(GLANCE.total_seconds() * 1000)
    changes = awatch(
        *folders, recursive=False, watch_filter=None, debounce=200, step=50, rust_timeout=glance, yield_on_timeout=True
    )
    async with aclosing(changes):
        async for change in changes:
            yield
            if _came_or_went((Path(path) for _, path in change), folders):
                return


def _came_or_went(changed: Iterable[Path], folders: tuple[Path, ...]) -> bool:
    return any(path in folders or path.is_dir() for path in changed)
