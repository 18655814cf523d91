"""The demo's Git repository: a sample service and the two changes that the story pushes to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from reconciler.adapters.clock import SystemClock
from reconciler.errors import Stalled

BRANCH = "main"
SERVICE = "greeter"
ROUTE = "/greeter"
SPEC_PATH = "services"
APP = f"services/{SERVICE}/app.py"
SPEC = f"services/{SERVICE}/service.yaml"
POLICY = f"{SPEC_PATH}/cluster.yaml"
MISSING_FILE = "greeting.txt"
"""What version 3 reads at its start, and what nobody committed."""

TARGET = 3
SURGE = 1
"""Replicas and maxSurge of the sample's spec; a test holds them to it."""

BUDGET = TARGET + SURGE

GIT_LIMIT_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of the sample's code: `edits` are exact texts and what replaces them."""

    version: str
    message: str
    edits: Mapping[str, str]


SECOND = Change(version="v2", message="Greet from v2", edits={'VERSION = "v1"': 'VERSION = "v2"'})
BROKEN = Change(
    version="v3",
    message="Greet from v3, with the greeting in a file of its own",
    edits={
        'VERSION = "v2"': 'VERSION = "v3"',
        'self.greeting = "Hello"': f'self.greeting = open("{MISSING_FILE}").read().strip()',
    },
)


class SampleRepository:
    """A repository with a work tree; a commit on its branch is what the daemon acts on."""

    def __init__(self, folder: Path) -> None:
        """Use `create` first."""
        self.folder = folder

    def create(self) -> None:
        """Make the repository with a first commit: a cluster policy, no service yet. Raises Stalled without git."""
        self.folder.mkdir(parents=True)
        self._git("init", "--quiet", f"--initial-branch={BRANCH}")
        self._git("config", "user.name", "Heliostat demo")
        self._git("config", "user.email", "demo@localhost")
        self._write(f"{SPEC_PATH}/README.md", sample("README.md"))
        self._write(POLICY, sample("policy.yaml"))
        self._commit("Say what this repository is for")

    def add_service(self) -> datetime:
        """Commit version 1 of the sample service; return when."""
        self._write(SPEC, sample("service.yaml"))
        self._write(APP, sample("app.py"))
        return self._commit("Add the greeter")

    def push(self, change: Change) -> datetime:
        """Commit a change of the code; return when."""
        text = (self.folder / APP).read_text()
        for old, new in change.edits.items():
            if old not in text:
                raise ValueError(f"{APP} does not hold {old!r}")
            text = text.replace(old, new)
        self._write(APP, text)
        return self._commit(change.message)

    def _write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def _commit(self, message: str) -> datetime:
        self._git("add", "--all")
        at = _now()
        self._git("commit", "--quiet", "--no-verify", "--no-gpg-sign", f"--message={message}")
        return at

    def _git(self, *arguments: str) -> None:
        # Variables of a hook or an alias that calls us would point git at another repository.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
        try:
            done = subprocess.run(
                command,
                check=False,
                cwd=self.folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=GIT_LIMIT_SECONDS,
            )
        except FileNotFoundError:
            raise Stalled("git is not on the PATH: install it and try again") from None
        if done.returncode != 0:
            raise Stalled(f"git {arguments[0]} failed in {self.folder}: {done.stderr.strip()}")


def sample(name: str) -> str:
    """Return one file of the sample service. It is kept as text: it is data here, not code of Heliostat."""
    return (files("reconciler.demo") / "sample" / f"{name}.txt").read_text(encoding="utf-8")


def _now() -> datetime:
    return SystemClock().now().astimezone(UTC)
