"""A real Git repository for tests, changed the way that users change theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

IDENTITY = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}


def git(folder: Path, *arguments: str, stdin: bytes | None = None) -> str:
    """Run git in a folder as a person would, with that person's name and no settings of this machine."""
    done = subprocess.run(
        ["git", *arguments],
        check=False,
        cwd=folder,
        env=os.environ | IDENTITY,
        input=stdin,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


class Origin:
    """A work tree on branch `main`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet", "--initial-branch=main")

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Make the work tree hold exactly these files."""
        for child in self.folder.iterdir():
            if child.name != ".git":
                shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        for path, content in files.items():
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(
        self, files: Mapping[str, str | bytes] | None = None, message: str = "Change", *, amend: bool = False
    ) -> str:
        """Commit the work tree, after making it hold `files`; return the commit's id."""
        if files is not None:
            self.write(files)
        git(self.folder, "add", "--all", "--force")
        git(self.folder, "commit", "--quiet", "--allow-empty", "-m", message, *(["--amend"] if amend else []))
        return git(self.folder, "rev-parse", "HEAD")

    def forget(self) -> None:
        """Drop every object that no branch holds, as a host does after a force push."""
        forget(self.folder)


def forget(repository: Path) -> None:
    """Prune unreachable objects at once."""
    git(repository, "reflog", "expire", "--expire=now", "--all")
    git(repository, "gc", "--quiet", "--prune=now")
