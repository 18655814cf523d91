"""Who and what is trusted: the part of the daemon's settings that guards against the repository itself.

None of it may live in Git, since it guards what Git says. `reconciler.settings` reads it with everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHORTEST_SECRET = 16
"""A webhook's secret can be guessed offline by whoever sees one signed request."""


@dataclass(frozen=True)
class Secret:
    """A value that never shows in logs, errors or `repr`; `reveal` it where it is used."""

    _value: str = field(repr=False)

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def __str__(self) -> str:
        """Return a mask."""
        return "********"


@dataclass(frozen=True, kw_only=True)
class TrustSettings:
    """The fields of `Settings` about trust. Each is also a flag, an environment variable and a TOML key."""

    webhook_github_secret_file: tuple[Secret, ...] = ()
    """What GitHub signs its webhooks with; several while they are exchanged. Empty: such webhooks are refused."""
    webhook_gitlab_secret_file: tuple[Secret, ...] = ()
    """The token that GitLab sends along."""
    webhook_generic_secret_file: tuple[Secret, ...] = ()
    """What others sign their webhooks with."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """How a setting is written on the command line."""

    name: str
    metavar: str
    help: str
    multiple: bool = False

    @property
    def flag(self) -> str:
        """Return the flag."""
        return f"--{self.name.replace('_', '-')}"


OPTIONS = (
    Option(name="webhook_github_secret_file", metavar="FILE", help="Secret of GitHub's webhooks; a line each."),
    Option(name="webhook_gitlab_secret_file", metavar="FILE", help="Token of GitLab's webhooks; a line each."),
    Option(name="webhook_generic_secret_file", metavar="FILE", help="Secret of other webhooks; a line each."),
)


def parse_secrets(text: object) -> tuple[Secret, ...]:
    """Read the secrets of a file, one in each line."""
    path = Path(str(text)).expanduser()
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"{path} is empty: write the secret into it")
    if any(len(secret) < SHORTEST_SECRET for secret in found):
        raise ValueError(
            f"{path} has a secret of less than {SHORTEST_SECRET} characters: make one by openssl rand -hex 32"
        )
    return tuple(map(Secret, found))


TRUST_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "webhook_github_secret_file": parse_secrets,
    "webhook_gitlab_secret_file": parse_secrets,
    "webhook_generic_secret_file": parse_secrets,
}
"""One reader per setting."""
