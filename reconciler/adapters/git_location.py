"""Where a repository is: a folder on this machine or a URL, told apart, checked, and free of secrets."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from reconciler.errors import Stalled

SCHEMES = frozenset({"file", "http", "https", "ssh", "git"})
"""Transports that only move objects. Others, such as `ext::`, run whatever the URL says."""

_SCP_LIKE = re.compile(r"(?P<user>[\w.+-]+@)?(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?!//)(?P<path>.+)")
_USERINFO = re.compile(r"(?:(?<=\bssh://)[^/@\s:]*:|(?<!\bssh://)(?<=://))[^/@\s]*@")
"""An SSH login name alone, as in `ssh://git@host`, is no secret; in any other URL it may be a token."""
_SECRET_ARGUMENT = re.compile(r"(?i)([?&](?:access_token|private_token|job_token|token|password)=)[^&\s'\"]+")
_BRANCH_FORBIDDEN = re.compile(r"[\x00-\x20~^:?*\[\\\x7f]|\.\.|@\{|//|/\.|^[-./]|[./]$|\.lock(/|$)|^@$")


@dataclass(frozen=True, kw_only=True)
class Login:
    """Name and password from a URL, given to git out of sight of the process list."""

    scope: str
    """The scheme, host and port that may be told them."""
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Location:
    """A repository's address. `address` is what git is given, `shown` what people are shown."""

    address: str
    shown: str
    folder: Path | None = None
    """The repository's folder when it is watched on this machine; None when it is asked over a URL."""
    login: Login | None = None
    username: str = field(default="", repr=False)
    """The name in a URL of the web, which many hosts take a token for; it is no part of `address`."""


def locate(url: str) -> Location:
    """Read a path or URL from the settings. Raises Stalled with what to write instead."""
    text = url.strip()
    if not text or text.startswith("-") or any(ord(char) < 32 for char in text):
        raise Stalled(f"the repository {mask(url)!r} is not a path or a URL")
    if "::" in text.split("/", 1)[0] and not text.startswith("["):
        raise Stalled(f"the repository {mask(text)!r} uses a transport that can run programs: {_ALLOWED}")
    if "://" in text:
        return _locate_url(text)
    folder = Path(text).expanduser()
    if _SCP_LIKE.fullmatch(text) and not folder.exists():
        return Location(address=text, shown=text)
    return Location(address=str(folder.resolve()), shown=str(folder.resolve()), folder=folder.resolve())


_ALLOWED = "use a local path, file://, http://, https://, ssh:// or user@host:path"


def _locate_url(text: str) -> Location:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise Stalled(f"the repository {mask(text)!r} is not a valid URL: {_ALLOWED}") from None
    if parts.scheme.lower() not in SCHEMES:
        raise Stalled(f"the repository {mask(text)!r} has an unknown scheme: {_ALLOWED}")
    if "@" not in parts.netloc or parts.scheme.lower() not in {"http", "https"}:
        return Location(address=text, shown=mask(text))
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    place = f"{host}:{port}" if port else host
    username = unquote(parts.username or "")
    # Not even the name stays in the address, which everybody on the machine can read on git's command line.
    address = urlunsplit(parts._replace(netloc=place))
    login = None
    if parts.password is not None:
        login = Login(scope=scope_of(address), username=username, password=unquote(parts.password))
    return Location(address=address, shown=mask(text), login=login, username=username)


def scope_of(address: str) -> str:
    """Return the scheme, host and port of a URL without a name, as git's settings of credentials have them."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def check_branch(branch: str) -> str:
    """Return a branch's name when git accepts it as one; raises Stalled otherwise."""
    if not branch or _BRANCH_FORBIDDEN.search(branch):
        raise Stalled(f"{branch!r} is not a branch name: give the name alone, such as 'main'")
    return branch


def clean_path(path: str) -> str:
    """Return a path filter as git names it: relative to the root, without dots and slashes around it."""
    clean = posixpath.normpath(path.strip()).strip("/") if path.strip() else ""
    if clean.startswith("../") or clean == "..":
        raise Stalled(f"the path {path!r} leaves the repository: name a folder inside it")
    return "" if clean == "." else clean


def mask(text: str, *secrets: str) -> str:
    """Return text with every URL's name and password, known token arguments and `secrets` blanked out."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _SECRET_ARGUMENT.sub(r"\1***", _USERINFO.sub("***@", text))
