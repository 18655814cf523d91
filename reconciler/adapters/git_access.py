"""How a private repository is opened: an SSH key, a token in a file, or a program. Never on a command line."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.adapters.git_location import Location, Login, scope_of


@dataclass(frozen=True, kw_only=True)
class GitAccess:
    """What the settings give the daemon to open its repository with."""

    ssh_key: Path | None = None
    known_hosts: Path | None = None
    token_file: Path | None = None
    """Read at each command: tokens of applications are exchanged hourly."""
    username: str = "git"
    helper: str = ""
    """As in git's `credential.helper`."""

    @property
    def ssh_options(self) -> str:
        """Return what ssh is given, quoted for a shell; "" without any."""
        options = []
        if self.ssh_key is not None:
            # No other key is tried: a host that knows another one of them would answer for another account.
            options += ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i", _literal(self.ssh_key)]
        if self.known_hosts is not None:
            known = f'UserKnownHostsFile="{_literal(self.known_hosts)}"'  # unquoted, a space would begin another file
            options += ["-o", known, "-o", "StrictHostKeyChecking=yes"]
            options += ["-o", "GlobalKnownHostsFile=/dev/null"]
        return shlex.join(options)

    def login(self, location: Location) -> Login | None:
        """Return name and password for the repository's own host; None for one that is not asked over HTTP."""
        if self.token_file is None:
            return location.login
        if urlsplit(location.address).scheme not in ("http", "https"):
            return None
        try:
            token = self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return location.login  # the host's refusal then says what is missing
        return Login(scope=scope_of(location.address), username=location.username or self.username, password=token)


def _literal(path: Path) -> str:
    """Return a path as ssh takes it, which reads `%h` and the like as something else."""
    return str(path).replace("%", "%%")


OPEN = GitAccess()
"""Whatever git finds by itself."""
