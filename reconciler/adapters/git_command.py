"""Runs git: no prompts, no hooks, no transport that runs programs, a time limit on every call, no secret shown."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # else importing GitPython fails where git is not installed
import git

from reconciler.adapters.git_access import OPEN, GitAccess
from reconciler.adapters.git_location import Location, Login, mask, scope_of
from reconciler.adapters.git_output import TooMuch, end, listen

P = ParamSpec("P")
T = TypeVar("T")

MOST_OUTPUT = 256 << 20
"""Of one command. Packages are at most 100 MiB, specs 64; a listing of a million files is 100."""

LOCAL_LIMIT = timedelta(seconds=60)
"""For calls that only read or write the mirror."""

_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.quotePath=false",
    "transfer.fsckObjects=false",
    "gc.auto=0",
    "gc.autoDetach=false",
    "maintenance.auto=false",
    "advice.detachedHead=false",
    "http.lowSpeedLimit=100",
    "http.lowSpeedTime=30",
    "submodule.recurse=false",
)

_OF_ANOTHER_REPOSITORY = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
"""Set when the daemon is started from a hook or a git alias: git would read that repository instead of ours."""


_FROM_ENVIRONMENT = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" "$HELIOSTAT_GIT_USERNAME" '
    '"$HELIOSTAT_GIT_PASSWORD"; }; f'
)
"""A credential helper."""


class Failure(StrEnum):
    """What kind of trouble git met: decides the hint, not the control flow of the daemon."""

    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    DENIED = "denied"
    NOT_FOUND = "not_found"
    NO_BRANCH = "no_branch"
    OWNERSHIP = "ownership"
    CORRUPT = "corrupt"
    OTHER = "failed"


class GitFailed(Exception):
    """One git command did not do its work. Stays inside the Git adapter."""

    def __init__(self, failure: Failure, text: str) -> None:
        """`text` is for people and holds no secret."""
        super().__init__(text)
        self.failure = failure
        self.text = text


class _Call:
    """The git processes of one call, so that a cancelled call ends them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_cancelled = False

    @contextmanager
    def holding(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        with self._lock:
            self._running.add(process)
            is_cancelled = self._is_cancelled
        if is_cancelled:
            end(process)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
            for process in self._running:
                end(process)


_CALL: ContextVar[_Call | None] = ContextVar("git_call", default=None)


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function that runs git; cancelling ends its git processes, so that nothing lingers."""
    call = _Call()
    token = _CALL.set(call)
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except asyncio.CancelledError:
        call.cancel()
        raise
    finally:
        _CALL.reset(token)


class GitCommand:
    """git on one bare repository, on behalf of one `Location`."""

    def __init__(self, repository: Path, location: Location, access: GitAccess = OPEN) -> None:
        """`repository` need not exist yet."""
        self.repository = repository
        self._location = location
        self._access = access

    def run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        limit: timedelta = LOCAL_LIMIT,
        environment: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return what the command prints. Raises GitFailed when it fails, takes too long or says too much."""
        status, out, errors = self.attempt(*arguments, stdin=stdin, limit=limit, environment=environment)
        if status != 0:
            raise self._explain(errors.decode(errors="replace"), status)
        return out

    def attempt(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        limit: timedelta = LOCAL_LIMIT,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, bytes]:
        """Return the command's status, and what it prints to either side. Raises GitFailed when it takes too long."""
        process = self._start(arguments, {**self._environment(), **(environment or {})})
        with (_CALL.get() or _Call()).holding(process):
            try:
                out, errors = listen(process, stdin, limit, MOST_OUTPUT)
            except TimeoutError:
                raise GitFailed(Failure.TIMEOUT, f"no answer within {limit.total_seconds():g} s") from None
            except TooMuch:
                text = f"git lists more than {MOST_OUTPUT >> 20} MiB: this is no repository of specs"
                raise GitFailed(Failure.OTHER, text) from None
        return process.returncode, out, errors

    def _start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        options = [option for setting in _SETTINGS for option in ("-c", setting)]
        foreign = [
            option
            for name in _OF_ANOTHER_REPOSITORY
            if name in os.environ.keys() - environment
            for option in ("-u", name)
        ]
        program = [*(["env", *foreign] if foreign else []), git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git"]
        command = [*program, f"--git-dir={self.repository}", *options, *arguments]
        try:
            handle = git.Git().execute(
                command, istream=subprocess.PIPE, as_process=True, env=environment, start_new_session=True
            )
        except git.GitCommandNotFound:
            raise GitFailed(Failure.OTHER, "git is not installed or not on PATH") from None
        process, handle.proc = cast("subprocess.Popen[bytes]", handle.proc), None  # else the handle's end kills git
        return process

    def _environment(self) -> dict[str, str]:
        """Return what differs from the daemon's own environment."""
        environment = {
            "GIT_DIR": str(self.repository),
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TRACE_REDACT": "1",
            "SSH_ASKPASS_REQUIRE": "never",
        }
        own = self._access.ssh_options
        if own or (not os.environ.get("GIT_SSH_COMMAND") and not os.environ.get("GIT_SSH")):
            patience = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10"
            environment["GIT_SSH_COMMAND"] = " ".join(filter(None, ("ssh", patience, own)))
        return environment | self._credentials()

    @property
    def _login(self) -> Login | None:
        """Return the name and password for the repository's host: from the token's file, else from the URL."""
        return self._access.login(self._location)

    def _credentials(self) -> dict[str, str]:
        """Return who git is at the repository's host, out of sight: arguments can be read by everybody here.

        A helper that reads the password from the environment, or the name that others are asked with; then the
        helper of the settings, before those of the user.
        """
        login, environment, settings = self._login, dict[str, str](), list[tuple[str, str]]()
        if login is not None:
            environment = {"HELIOSTAT_GIT_USERNAME": login.username, "HELIOSTAT_GIT_PASSWORD": login.password}
            settings.append((f"credential.{login.scope}.helper", _FROM_ENVIRONMENT))
        elif self._location.username:
            settings.append((f"credential.{scope_of(self._location.address)}.username", self._location.username))
        if self._access.helper:
            settings.append(("credential.helper", self._access.helper))
        count = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
        for number, (key, value) in enumerate(settings, count):
            environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return environment | ({"GIT_CONFIG_COUNT": str(count + len(settings))} if settings else {})

    def _explain(self, errors: str, status: int) -> GitFailed:
        secrets = (self._login.password,) if self._login else ()
        text = mask(errors, *secrets)
        failure, hint = next(
            ((failure, hint) for pattern, failure, hint in _HINTS if re.search(pattern, text)), (Failure.OTHER, "")
        )
        said = _essence(text) or f"git ended with status {status}"
        return GitFailed(failure, f"{said} ({hint})" if hint else said)


def _essence(errors: str) -> str:
    """Return the lines in which git says what is wrong, or the last one that says anything."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"fatal:|error:|remote: (?!$)|ssh:|.*Permission denied", line)]
    chosen = telling[:3] or lines[-1:]
    return "; ".join(re.sub(r"^(fatal|error): ", "", line) for line in chosen)[:500]


_HINTS = (
    (
        r"dubious ownership|unsafe repository",
        Failure.OWNERSHIP,
        "the repository belongs to another user; if you trust it, run: git config --global --add safe.directory PATH",
    ),
    (
        r"HOST IDENTIFICATION HAS CHANGED|REVOKED HOST KEY",
        Failure.DENIED,
        "the SSH host key is not the one that is known: somebody may stand in between. Ask the host's owner, compare "
        "the fingerprints, and only then replace the host's line in known_hosts",
    ),
    (
        r"Host key verification failed",
        Failure.DENIED,
        "the SSH host key is unknown: connect once by hand, or add it to known_hosts with ssh-keyscan",
    ),
    (
        r"UNPROTECTED PRIVATE KEY FILE|bad permissions",
        Failure.DENIED,
        "the SSH key may be readable by the daemon's user only: chmod 600 it",
    ),
    (
        r"Permission denied \(|Authentication failed|could not read Username|could not read Password|"
        r"terminal prompts disabled|The requested URL returned error: 40[13]",
        Failure.DENIED,
        "give the daemon an SSH key (--git-ssh-key), a token (--git-token-file) or a git credential helper that may "
        "read this repository",
    ),
    (r"[Cc]ouldn't find remote ref|[Rr]emote branch .* not found", Failure.NO_BRANCH, ""),
    (
        r"[Rr]epository.*not found|does not appear to be a git repository|does not exist|returned error: 404",
        Failure.NOT_FOUND,
        "check the address, and that this user may read it",
    ),
    (
        r"[Cc]ould not resolve host|Name or service not known|Connection refused|Failed to connect|"
        r"Connection timed out|Operation too slow|No route to host|unable to access|early EOF|hung up",
        Failure.UNREACHABLE,
        "",
    ),
    (
        r"bad object|corrupt|unable to read|missing blob|missing tree|inflate|not a valid object|not a tree object",
        Failure.CORRUPT,
        "",
    ),
)
