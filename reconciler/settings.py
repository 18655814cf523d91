"""Everything that is set when the daemon starts, read once: flags, then `HELIOSTAT_*`, then a TOML file.

What may change without a restart belongs in Git; who is trusted belongs here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from reconciler.node_settings import NODE_PARSERS, NodeSettings
from reconciler.trust_settings import OPTIONS as TRUST_OPTIONS
from reconciler.trust_settings import TRUST_PARSERS, TrustSettings
from reconciler.trust_settings import Secret as Secret  # noqa: PLC0414 (its home for everybody else)
from specs.durations import parse_duration

PREFIX = "HELIOSTAT_"
_ALLOWED = re.compile(
    r"(?:\[(?P<literal>[0-9a-f:.]+)\]|(?P<name>(?:\*\.)?[a-z0-9_][a-z0-9._-]*))(?::(?P<port>[0-9]{1,5}))?"
)
_ZONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_CLUSTER = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


class SettingsError(ValueError):
    """A setting that is missing or wrong; the text names it and where it was set."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """A host and a port to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return `host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> str:
        """Return `host:port` for a client on this machine: a wildcard host is no destination."""
        wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (compared, not bound)
        return str(Address(host=wildcard.get(self.host, self.host), port=self.port))


DEFAULT_PORTS = (80, 443)


@dataclass(frozen=True, kw_only=True)
class AllowedHost:
    """A host that the daemon may call because a spec says so; `*.example.com` stands for all names below."""

    host: str
    port: int | None = None
    """None: the default ports of http and https."""

    def allows(self, host: str, port: int) -> bool:
        """Return whether a host and port of a URL are meant."""
        name = host.lower().rstrip(".")
        is_named = name.endswith(self.host[1:]) if self.host.startswith("*.") else name == self.host
        return is_named and (port in DEFAULT_PORTS if self.port is None else port == self.port)

    def __str__(self) -> str:
        """Return the form in which it is set."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


class GatewayMode(StrEnum):
    """How requests reach replicas."""

    AUTO = "auto"
    """Straight to the replicas where the cluster has direct ingress, else through Serve's proxies."""
    DIRECT = "direct"
    PROXY = "proxy"


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"
    """For people on a terminal, JSON otherwise."""
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Settings(TrustSettings, NodeSettings):
    """The daemon's settings. Each field is also a flag, an environment variable and a TOML key."""

    repo: str
    """Path or URL of the Git repository with the specs; may hold credentials: show `repo_shown`."""
    branch: str = "main"
    path: str = ""
    """Folder of the repository to read specs from; "" for all of it."""
    git_interval: timedelta = timedelta(seconds=30)
    """How often a remote repository is asked; a local one is watched."""
    ray: str = "http://127.0.0.1:8265"
    """Ray's dashboard."""
    ray_token: Secret | None = None
    listen: Address = Address(host="127.0.0.1", port=8484)
    """Where the API and the status page are served."""
    allowed_hosts: tuple[str, ...] = ()
    """Further host names (with port where it is not the default one) under which the API may be called."""
    gateway: Address = Address(host="127.0.0.1", port=8080)
    gateway_tls: Path | None = None
    """PEM file with certificate and key; None serves plain HTTP."""
    zone: str | None = None
    """The zone of the gateway's host: replicas there are preferred while they have room. None prefers nobody."""
    gateway_mode: GatewayMode = GatewayMode.AUTO
    gateway_lanes: int = 256
    """Cells that can have traffic at once without a reload of HAProxy."""
    gateway_keeper: bool = True
    """Whether a small process goes on with the gateway's endpoints while no daemon runs."""
    gateway_url: str = ""
    """The gateway as replicas see it (`HELIOSTAT_GATEWAY_URL` in every cell); "" derives it from `gateway`."""
    prometheus: str = ""
    """The Prometheus server that answers specs' metric queries, "" for none; may hold credentials."""
    allow_hosts: tuple[AllowedHost, ...] = ()
    """Hosts that gates in specs may call. Nothing else is ever called because a spec says so."""
    stage_python: str = "python"
    """The cluster's Python that brings weights to nodes (`loading.stage` in specs): it needs heliostat[loaders]."""
    state: Path
    cluster: str = "default"
    serve_host: str = "0.0.0.0"  # noqa: S104 (replicas must be reachable from the gateway's host)
    """What Serve's HTTP servers bind to when it is us who start Serve on the cluster."""
    log_format: LogFormat = LogFormat.AUTO
    log_level: LogLevel = LogLevel.INFO

    @property
    def repo_shown(self) -> str:
        """Return the repository's address without the credentials that it may hold."""
        return self.repo if self.repo.startswith("ssh:") else _without_credentials(self.repo)

    @property
    def prometheus_shown(self) -> str:
        """Return the Prometheus server's address without the credentials that it may hold."""
        return _without_credentials(self.prometheus)

    @property
    def server(self) -> str:
        """Return the API's base URL for clients on this machine."""
        return f"{'https' if self.listen_tls else 'http'}://{self.listen.reachable}"

    @property
    def public_url(self) -> str:
        """Return the gateway's base URL as replicas see it."""
        if self.gateway_url:
            return self.gateway_url.rstrip("/")
        return f"{'https' if self.gateway_tls else 'http'}://{self.gateway.reachable}"

    def __repr__(self) -> str:
        """Return the settings as they may be logged."""
        shown = {item.name: getattr(self, item.name) for item in fields(self)}
        shown |= {"repo": self.repo_shown, "prometheus": self.prometheus_shown}
        return f"Settings({', '.join(f'{name}={value!s}' for name, value in shown.items())})"


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def parse_address(text: object) -> Address:
    """Read `host:port`; an IPv6 host stands in brackets."""
    host, _, port = str(text).rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or not host:
        raise ValueError("write an address such as 127.0.0.1:8484")
    return Address(host=host.strip("[]"), port=int(port))


def _parse_url(text: object) -> str:
    parts = urlsplit(str(text))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("write a URL such as http://127.0.0.1:8265")
    return str(text).rstrip("/")


def _parse_lanes(text: object) -> int:
    if not str(text).isdecimal() or not 2 <= int(str(text)) <= 8192:
        raise ValueError("write a number of lanes from 2 to 8192")
    return int(str(text))


def _parse_switch(text: object) -> bool:
    switch = {"on": True, "off": False, "true": True, "false": False}.get(str(text).lower())
    if switch is None:
        raise ValueError("write on or off")
    return switch


def _parse_cluster(text: object) -> str:
    if not _CLUSTER.fullmatch(str(text)):
        raise ValueError("write lower-case letters, digits and dashes, at most 40")
    return str(text)


def _parse_zone(text: object) -> str:
    if not _ZONE.fullmatch(str(text)):
        raise ValueError("write a zone as the nodes' label ray.io/availability-zone has it, such as us-east-1a")
    return str(text)


def _parse_hosts(text: object) -> tuple[str, ...]:
    hosts = text if isinstance(text, list | tuple) else str(text).split(",")
    return tuple(str(host).strip().lower() for host in hosts if str(host).strip())


def _parse_allowed(text: object) -> tuple[AllowedHost, ...]:
    hosts = text if isinstance(text, list | tuple) else str(text).split(",")
    return tuple(_parse_allowed_host(str(host).strip().lower()) for host in hosts if str(host).strip())


def _parse_allowed_host(text: str) -> AllowedHost:
    found = _ALLOWED.fullmatch(text)
    if found is None or int(found["port"] or 1) not in range(1, 65536):
        raise ValueError(f"{text!r} is no host: write hooks.example.com, hooks.example.com:8443 or *.example.com")
    port = int(found["port"]) if found["port"] else None
    return AllowedHost(host=(found["literal"] or found["name"]).rstrip("."), port=port)


def _parse_interval(text: object) -> timedelta:
    interval = parse_duration(f"{text}s" if isinstance(text, int | float) else str(text))
    if interval < timedelta(seconds=1):
        raise ValueError("write at least 1s: the repository's host is asked this often")
    return interval


def _parse_file(text: object) -> Path:
    path = Path(str(text)).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def _choice(kind: type[StrEnum]) -> Callable[[object], Any]:
    def parse(text: object) -> StrEnum:
        try:
            return kind(str(text))
        except ValueError:
            raise ValueError(f"write one of {', '.join(kind)}") from None

    return parse


PARSERS: Mapping[str, Callable[[object], Any]] = {
    "repo": str,
    "branch": str,
    "path": lambda text: str(text).strip("/"),
    "git_interval": _parse_interval,
    "ray": _parse_url,
    "ray_token": lambda text: Secret(str(text).strip()),
    "listen": parse_address,
    "allowed_hosts": _parse_hosts,
    "gateway": parse_address,
    "gateway_tls": _parse_file,
    "zone": _parse_zone,
    "gateway_mode": _choice(GatewayMode),
    "gateway_lanes": _parse_lanes,
    "gateway_keeper": _parse_switch,
    "gateway_url": _parse_url,
    "prometheus": _parse_url,
    "allow_hosts": _parse_allowed,
    "stage_python": str,
    "state": lambda text: Path(str(text)).expanduser(),
    "cluster": _parse_cluster,
    "serve_host": str,
    "log_format": _choice(LogFormat),
    "log_level": _choice(LogLevel),
    **TRUST_PARSERS,
    **NODE_PARSERS,
}
"""One reader per setting; a setting's name is its flag (with dashes), its variable and its TOML key."""

FLAGS = {"allow_hosts": "--allow-host", **{option.name: option.flag for option in TRUST_OPTIONS}}
"""Flags that are called otherwise than their setting: those that may be given several times."""

TOKEN_FILE = "ray_token_file"  # noqa: S105 (a setting's name, not a secret)
"""The token's other form: the name of a file that holds it. There is no flag with the token itself,
because everybody on a machine can read command lines."""


def load_settings(
    flags: Mapping[str, object],
    environ: Mapping[str, str] = os.environ,
    *,
    default_state: Path,
    needs_repo: bool = True,
) -> Settings:
    """Read the settings. Raises SettingsError that lists every wrong one.

    `flags` are those given on the command line, by field name, plus `config` (a TOML file).
    """
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    config = given.pop("config", None) or environ.get(f"{PREFIX}CONFIG")
    sources = [
        {name: (value, FLAGS.get(name, f"--{name.replace('_', '-')}")) for name, value in given.items()},
        _from_environment(environ),
        _from_file(Path(str(config)).expanduser()) if config else {},
    ]
    merged: dict[str, tuple[object, str]] = {"state": (default_state, "the default")}
    for source in reversed(sources):
        merged |= source
    _resolve_token_file(merged, sources)
    if not needs_repo:
        merged.setdefault("repo", ("", "the default"))
    elif not merged.get("repo", ("", ""))[0]:
        raise SettingsError(f"no repository: give --repo URL, {PREFIX}REPO or `repo` in the file given by --config")
    return _checked(merged)


def _checked(merged: Mapping[str, tuple[object, str]]) -> Settings:
    values: dict[str, Any] = {}
    problems = []
    for name, (raw, where) in merged.items():
        try:
            values[name] = PARSERS[name](raw)
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(**values)


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    """Unknown HELIOSTAT_ variables are left alone: some belong to the command line or to replicas."""
    return {
        name: (environ[variable], variable)
        for name in (*PARSERS, TOKEN_FILE)
        if environ.get(variable := PREFIX + name.upper())
    }


def _from_file(path: Path) -> dict[str, tuple[object, str]]:
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from error
    settings = {key.replace("-", "_"): value for key, value in content.items()}
    unknown = sorted(set(settings) - set(PARSERS) - {TOKEN_FILE})
    if unknown:
        raise SettingsError(f"{path}: unknown settings {', '.join(unknown)}; known are {', '.join(sorted(PARSERS))}")
    return {name: (value, f"{path}: {name}") for name, value in settings.items()}


def _resolve_token_file(merged: dict[str, tuple[object, str]], sources: list[dict[str, tuple[object, str]]]) -> None:
    """Read the token from its file, unless a stronger source gives the token itself."""
    given = merged.pop(TOKEN_FILE, None)
    strongest = next((source for source in sources if TOKEN_FILE in source or "ray_token" in source), {})
    if given is None or "ray_token" in strongest:
        return
    try:
        merged["ray_token"] = (Path(str(given[0])).expanduser().read_text(), given[1])
    except OSError as error:
        raise SettingsError(f"{given[1]}: cannot read {given[0]}: {error.strerror}") from error
