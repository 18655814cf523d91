"""Who and what is trusted: the part of the daemon's settings that guards against the repository itself.

None of it may live in Git, since it guards what Git says. `reconciler.settings` reads it with everything else.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from specs.amount import Amount
from specs.desired import PruneSettings
from specs.strict import MAX_COUNT

HALF = Amount(value=50, is_percent=True)
SHORTEST_SECRET = 16
"""A webhook's secret can be guessed offline by whoever sees one signed request."""


class Secret:
    """A value that never shows: not in logs, errors, `repr`, JSON, copies of settings or pickles.

    `reveal` it where it is used.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        """`value` is the secret itself."""
        self.__value = value

    def reveal(self) -> str:
        """Return the secret itself."""
        return self.__value

    def __str__(self) -> str:
        """Return a mask."""
        return "********"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        """Return a mask."""
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        """Compare in a time that says nothing of the value."""
        return isinstance(other, Secret) and hmac.compare_digest(self.__value.encode(), other.__value.encode())

    def __hash__(self) -> int:
        """Return a number that says nothing of the value."""
        return hash(("Secret", self.__value))

    def __deepcopy__(self, memo: object) -> Secret:
        """Return the same one: `dataclasses.asdict` copies what it finds."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled."""
        raise TypeError("a secret is not written anywhere")


class ForcePush(StrEnum):
    """What happens when the newest commit does not go on from the one that is followed."""

    HOLD = "hold"
    ALLOW = "allow"


class CommitStatus(StrEnum):
    """Who hosts the repository."""

    GITHUB = "github"
    GITLAB = "gitlab"


class ReadAccess(StrEnum):
    """Who may read what the daemon tells."""

    OPEN = "open"
    TOKEN = "token"  # noqa: S105 (a word, not a secret)


@dataclass(frozen=True, kw_only=True)
class TrustSettings:
    """The fields of `Settings` about trust. Each is also a flag, an environment variable and a TOML key."""

    webhook_github_secret_file: tuple[Secret, ...] = ()
    """What GitHub signs its webhooks with; several while they are exchanged. Empty: such webhooks are refused."""
    webhook_gitlab_secret_file: tuple[Secret, ...] = ()
    """The token that GitLab sends along."""
    webhook_generic_secret_file: tuple[Secret, ...] = ()
    """What others sign their webhooks with."""
    listen_tls: Path | None = None
    """PEM file with certificate and key for the API; None serves plain HTTP."""
    read_access: ReadAccess = ReadAccess.OPEN
    """Who may read the API and the page."""
    allowed_signers: Path | None = None
    """Who may sign commits with SSH keys, as ssh-keygen's ALLOWED SIGNERS; with it only signed ones are followed."""
    allowed_gpg_keys: Path | None = None
    """The public GPG keys that commits may be signed with; with it only signed ones are followed."""
    force_push: ForcePush = ForcePush.HOLD
    """What happens when the branch is rewritten."""
    notify_webhook_file: tuple[tuple[Secret, ...], ...] = ()
    """Addresses that are told every event, each with the secret that its messages are signed with, if any."""
    notify_slack_file: tuple[tuple[Secret, ...], ...] = ()
    """Addresses of channels that are told what matters."""
    commit_status: CommitStatus | None = None
    """Whose API is told how far each commit has come; None: nobody's."""
    commit_status_url: str = ""
    """The repository in that API."""
    commit_status_token_file: Path | None = None
    """What opens that API; read at each call."""
    git_ssh_key: Path | None = None
    """The private key that the repository is opened with over SSH; None: what ssh finds by itself."""
    git_known_hosts: Path | None = None
    """The host keys that are accepted, and no others; None: those that ssh knows by itself."""
    git_token_file: Path | None = None
    """A file with the token that opens the repository over HTTP; read at each request."""
    git_username: str = "git"
    """The name that goes with the token."""
    git_credential_helper: str = ""
    """A program that knows name and password, as in git's `credential.helper`."""
    secret_folders: tuple[Path, ...] = ()
    """Folders with files that specs may name as secrets."""
    secret_env_prefixes: tuple[str, ...] = ()
    """How variables of the daemon begin that specs may name as secrets."""
    secret_namespaces: tuple[str, ...] = ()
    """Kubernetes namespaces whose secrets specs may name."""
    kubernetes_api: str = ""
    """The Kubernetes API's URL; "" for that of the cluster in which the daemon is a pod, if it is."""
    kubernetes_token_file: Path | None = None
    """What the daemon shows to that API; None for its service account's token."""
    kubernetes_ca_file: Path | None = None
    """What that API's certificate is checked against; None for its service account's."""
    prune: bool = True
    """Whether services that left the repository may be removed at all; the ClusterPolicy must say so too."""
    prune_max_services: int = 10
    """How many of them one commit may remove at most, whatever the ClusterPolicy says."""
    prune_max_fraction: Amount = HALF
    """Which share of all services one commit may remove at most."""
    policies: tuple[str, ...] = ()
    """Policies of installed packages that specs may name, by kind and name, such as `rollout.ramp`."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """How a setting is written on the command line."""

    name: str
    metavar: str
    help: str
    singular: str = ""
    """The flag's name where it may be given several times, once for each part of the setting."""

    @property
    def flag(self) -> str:
        """Return the flag."""
        return f"--{(self.singular or self.name).replace('_', '-')}"


OPTIONS = (
    Option(name="webhook_github_secret_file", metavar="FILE", help="Secret of GitHub's webhooks; a line each."),
    Option(name="webhook_gitlab_secret_file", metavar="FILE", help="Token of GitLab's webhooks; a line each."),
    Option(name="webhook_generic_secret_file", metavar="FILE", help="Secret of other webhooks; a line each."),
    Option(name="listen_tls", metavar="PEM", help="Certificate and key: the API then speaks HTTPS."),
    Option(name="read_access", metavar="open|token", help="Who may read the API and the page.  [default: open]"),
    Option(name="allowed_signers", metavar="FILE", help="Follow only commits that these SSH keys signed."),
    Option(name="allowed_gpg_keys", metavar="FILE", help="Follow only commits that these GPG keys signed."),
    Option(name="force_push", metavar="hold|allow", help="What to do about a rewritten branch.  [default: hold]"),
    Option(name="notify_webhook_file", metavar="FILE", help="URLs that are told every event; URL [SECRET] a line."),
    Option(name="notify_slack_file", metavar="FILE", help="URLs of channels that are told what matters."),
    Option(name="commit_status", metavar="github|gitlab", help="Whose API is told how far commits have come."),
    Option(name="commit_status_url", metavar="URL", help="The repository in that API."),
    Option(name="commit_status_token_file", metavar="FILE", help="File with the token that opens that API."),
    Option(name="git_ssh_key", metavar="FILE", help="SSH key that opens the repository."),
    Option(name="git_known_hosts", metavar="FILE", help="Host keys that are accepted, and no others."),
    Option(name="git_token_file", metavar="FILE", help="File with a token that opens the repository over HTTPS."),
    Option(name="git_username", metavar="NAME", help="Name that goes with the token.  [default: git]"),
    Option(name="git_credential_helper", metavar="PROGRAM", help="Program that knows name and password."),
    Option(
        name="secret_folders", singular="secret_folder", metavar="FOLDER", help="Specs may use files here as secrets."
    ),
    Option(
        name="secret_env_prefixes",
        singular="secret_env_prefix",
        metavar="PREFIX",
        help="Variables of the daemon that specs may use as secrets begin like this.",
    ),
    Option(
        name="secret_namespaces",
        singular="secret_namespace",
        metavar="NAME",
        help="Kubernetes secrets that specs may use are in this namespace.",
    ),
    Option(name="kubernetes_api", metavar="URL", help="Kubernetes API for secrets.  [default: the pod's own]"),
    Option(name="kubernetes_token_file", metavar="FILE", help="Token for it.  [default: the service account's]"),
    Option(name="kubernetes_ca_file", metavar="FILE", help="Authorities for it.  [default: the service account's]"),
    Option(name="prune", metavar="true|false", help="Whether services may be removed at all.  [default: true]"),
    Option(name="prune_max_services", metavar="N", help="Services that a commit may remove.  [default: 10]"),
    Option(name="prune_max_fraction", metavar="N%", help="Share of services that it may remove.  [default: 50%]"),
    Option(
        name="policies",
        singular="policy",
        metavar="KIND.NAME",
        help="A policy of an installed package that specs may name; several times for several.",
    ),
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


def _parse_list(text: object) -> tuple[str, ...]:
    parts = text if isinstance(text, list | tuple) else str(text).split(",")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _parse_folders(text: object) -> tuple[Path, ...]:
    found = tuple(Path(part).expanduser() for part in _parse_list(text))
    for folder in found:
        if not folder.is_absolute() or folder == Path("/"):
            raise ValueError(f"write the absolute path of a folder that holds nothing but secrets, not {folder}")
    return found


def _parse_url(text: object) -> str:
    if not str(text).startswith(("https://", "http://")):
        raise ValueError("write a URL such as https://10.0.0.1:443")
    return str(text).rstrip("/")


def _parse_force_push(text: object) -> ForcePush:
    try:
        return ForcePush(str(text))
    except ValueError:
        raise ValueError("write hold or allow") from None


def parse_targets(text: object) -> tuple[tuple[Secret, ...], ...]:
    """Read a file of addresses, each with a secret behind it or not."""
    path = Path(str(text)).expanduser()
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    if not lines or any(len(words) > 2 or not words[0].startswith(("https://", "http://")) for words in lines):
        raise ValueError(f"{path}: write an address (https://...) in each line, and behind it a secret if it has one")
    return tuple(tuple(map(Secret, words)) for words in lines)


def _parse_commit_status(text: object) -> CommitStatus:
    try:
        return CommitStatus(str(text))
    except ValueError:
        raise ValueError("write github or gitlab") from None


def _parse_read_access(text: object) -> ReadAccess:
    try:
        return ReadAccess(str(text))
    except ValueError:
        raise ValueError("write open or token") from None


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
    "listen_tls": _parse_file,
    "read_access": _parse_read_access,
    "allowed_signers": _parse_file,
    "allowed_gpg_keys": _parse_file,
    "force_push": _parse_force_push,
    "notify_webhook_file": parse_targets,
    "notify_slack_file": parse_targets,
    "commit_status": _parse_commit_status,
    "commit_status_url": _parse_url,
    "commit_status_token_file": _parse_file,
    "git_ssh_key": _parse_file,
    "git_known_hosts": _parse_file,
    "git_token_file": _parse_file,
    "git_username": str,
    "git_credential_helper": str,
    "secret_folders": _parse_folders,
    "secret_env_prefixes": _parse_list,
    "secret_namespaces": _parse_list,
    "kubernetes_api": _parse_url,
    "kubernetes_token_file": _parse_file,
    "kubernetes_ca_file": _parse_file,
    "prune": _parse_bool,
    "prune_max_services": _parse_count,
    "prune_max_fraction": _parse_share,
    "policies": _parse_list,
}
"""One reader per setting."""
