"""Who and what is trusted: the part of the daemon's settings that guards against the repository itself.

None of it may live in Git, since it guards what Git says. `reconciler.settings` reads it with everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from specs.amount import Amount
from specs.desired import PruneSettings
from specs.strict import MAX_COUNT

HALF = Amount(value=50, is_percent=True)
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


class ForcePush(StrEnum):
    """What happens when the newest commit does not go on from the one that is followed."""

    HOLD = "hold"
    ALLOW = "allow"


@dataclass(frozen=True, kw_only=True)
class TrustSettings:
    """The fields of `Settings` about trust. Each is also a flag, an environment variable and a TOML key."""

    webhook_github_secret_file: tuple[Secret, ...] = ()
    """What GitHub signs its webhooks with; several while they are exchanged. Empty: such webhooks are refused."""
    webhook_gitlab_secret_file: tuple[Secret, ...] = ()
    """The token that GitLab sends along."""
    webhook_generic_secret_file: tuple[Secret, ...] = ()
    """What others sign their webhooks with."""
    allowed_signers: Path | None = None
    """Who may sign commits with SSH keys, as ssh-keygen's ALLOWED SIGNERS; with it only signed ones are followed."""
    allowed_gpg_keys: Path | None = None
    """The public GPG keys that commits may be signed with; with it only signed ones are followed."""
    force_push: ForcePush = ForcePush.HOLD
    """What happens when the branch is rewritten."""
    prune: bool = True
    """Whether services that left the repository may be removed at all; the ClusterPolicy must say so too."""
    prune_max_services: int = 10
    """How many of them one commit may remove at most, whatever the ClusterPolicy says."""
    prune_max_fraction: Amount = HALF
    """Which share of all services one commit may remove at most."""


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
    Option(name="allowed_signers", metavar="FILE", help="Follow only commits that these SSH keys signed."),
    Option(name="allowed_gpg_keys", metavar="FILE", help="Follow only commits that these GPG keys signed."),
    Option(name="force_push", metavar="hold|allow", help="What to do about a rewritten branch.  [default: hold]"),
    Option(name="prune", metavar="true|false", help="Whether services may be removed at all.  [default: true]"),
    Option(name="prune_max_services", metavar="N", help="Services that a commit may remove.  [default: 10]"),
    Option(name="prune_max_fraction", metavar="N%", help="Share of services that it may remove.  [default: 50%]"),
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


def _parse_file(text: object) -> Path:
    path = Path(str(text)).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def _parse_force_push(text: object) -> ForcePush:
    try:
        return ForcePush(str(text))
    except ValueError:
        raise ValueError("write hold or allow") from None


def _parse_bool(text: object) -> bool:
    known = {"true": True, "false": False}
    if str(text).lower() not in known:
        raise ValueError("write true or false")
    return known[str(text).lower()]


def _parse_count(text: object) -> int:
    if not str(text).isdecimal() or not 1 <= int(str(text)) <= MAX_COUNT:
        raise ValueError(f"write a number from 1 to {MAX_COUNT}")
    return int(str(text))


def _parse_share(text: object) -> Amount:
    number = str(text).removesuffix("%")
    if not number.isdecimal() or not 0 <= int(number) <= 100 or not str(text).endswith("%"):
        raise ValueError("write a share, such as 20%")
    return Amount(value=int(number), is_percent=True)


def prune_limits(settings: TrustSettings) -> PruneSettings:
    """Return what a ClusterPolicy can allow at most."""
    return PruneSettings(
        enabled=settings.prune, max_services=settings.prune_max_services, max_fraction=settings.prune_max_fraction
    )


TRUST_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "webhook_github_secret_file": parse_secrets,
    "webhook_gitlab_secret_file": parse_secrets,
    "webhook_generic_secret_file": parse_secrets,
    "allowed_signers": _parse_file,
    "allowed_gpg_keys": _parse_file,
    "force_push": _parse_force_push,
    "prune": _parse_bool,
    "prune_max_services": _parse_count,
    "prune_max_fraction": _parse_share,
}
"""One reader per setting."""
