"""The command line's side of the HTTP API."""

from __future__ import annotations

import getpass
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import click
import httpx

from reconciler.adapters import state_folder

Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_SERVER = "http://127.0.0.1:8484"
PATIENCE = httpx.Timeout(10.0, connect=3.0)
STREAM_PATIENCE = httpx.Timeout(10.0, connect=3.0, read=60.0)
"""A stream that is silent for this long is dead: the daemon says that it is still here every 15 seconds."""


class DaemonError(click.ClickException):
    """The daemon said no, or nothing at all. Exit code 1."""

    def __init__(self, message: str, status: int = 0) -> None:
        """`status` is the HTTP status, 0 without an answer."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """One daemon's API."""

    server: str
    token: str | None = None

    def get(self, path: str, **params: str | int) -> Any:
        """Return the JSON at `path`, below `/api/v1`."""
        return self._answer("GET", path, params=params).json()

    def post(self, path: str, body: dict[str, Any], patience: float | None = None) -> Any:
        """Send a command with the daemon's token; `patience` is how many seconds its answer may take."""
        if self._bearer() == {}:
            raise DaemonError(
                f"no token for {self.server}: it is in the file `token` of the daemon's state folder. Give it with "
                "HELIOSTAT_TOKEN or --token, or name the folder with HELIOSTAT_STATE"
            )
        waits = {"timeout": httpx.Timeout(patience, connect=3.0)} if patience is not None else {}
        # In ASCII: a proposal may hold files that are no UTF-8.
        headers = self._bearer() | {"Content-Type": "application/json"}
        return self._answer("POST", path, content=json.dumps(body).encode(), headers=headers, **waits).json()

    def _bearer(self) -> dict[str, str]:
        """Return the header with the token that is given, or found on this machine for this very daemon."""
        token = self.token or _found_token(self.server)
        return {"Authorization": f"Bearer {token}"} if token is not None else {}

    def stream(self, path: str, *, since: int | None = None) -> Iterator[tuple[int, str, Any]]:
        """Yield (id, name, data) of server-sent events until the connection ends."""
        headers = self._bearer() | ({"Last-Event-ID": str(since)} if since is not None else {})
        try:
            with (
                httpx.Client(timeout=STREAM_PATIENCE, trust_env=False, verify=self._trusted) as client,
                client.stream("GET", self._url(path), headers=headers) as response,
            ):
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                yield from _events(response.iter_lines())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _answer(self, method: str, path: str, **rest: Any) -> httpx.Response:
        rest = {"timeout": PATIENCE, "headers": self._bearer(), **rest}
        try:
            response = httpx.request(method, self._url(path), trust_env=False, verify=self._trusted, **rest)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _refusal(response)
        if "json" not in response.headers.get("content-type", ""):
            raise DaemonError(f"what answers at {self.server} is not a Heliostat daemon")
        return response

    @property
    def _trusted(self) -> ssl.SSLContext | bool:
        """Certificates are loaded, which takes a while, only where they are used."""
        if not self.server.startswith("https:"):
            return False
        authorities = os.environ.get("HELIOSTAT_CA_FILE")
        try:
            return ssl.create_default_context(cafile=authorities) if authorities else True
        except OSError as error:
            raise DaemonError(f"HELIOSTAT_CA_FILE: {authorities} holds no certificates: {error}") from error

    def _url(self, path: str) -> str:
        return f"{self.server}/api/v1{path}"

    def _unreachable(self, error: Exception) -> DaemonError:
        if isinstance(error, httpx.ConnectError):
            return DaemonError(
                f"no Heliostat daemon answers at {self.server}. Start one with `heliostat run` (or `heliostat demo`), "
                "or name another with --server or HELIOSTAT_SERVER"
            )
        return DaemonError(f"the daemon at {self.server} did not answer: {error or type(error).__name__}")


def segment(name: str) -> str:
    """Return a name as one segment of a path."""
    return quote(name, safe="")


def caller() -> str:
    """Return who runs this command, for the daemon's log: `ann@laptop`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:100]


def connection(function: Function) -> Function:
    """Give a verb --server and --token, handed over as `daemon`."""

    def connected(*args: Any, server: str, token: str | None, **kwargs: Any) -> Any:
        return function(*args, daemon=Daemon(server=checked_server(server), token=token), **kwargs)

    connected.__name__, connected.__doc__ = function.__name__, function.__doc__
    connected.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    with_token = click.option(
        "--token", envvar="HELIOSTAT_TOKEN", help="The daemon's token; found by itself for a daemon of this machine."
    )
    with_server = click.option(
        "--server", envvar="HELIOSTAT_SERVER", default=DEFAULT_SERVER, show_default=True, help="The daemon's address."
    )
    return with_server(with_token(connected))  # type: ignore[return-value]


output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="The form."
)


def checked_server(server: str) -> str:
    """Return a daemon's address as it is called. Raises UsageError."""
    text = server if "://" in server else f"http://{server}"
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise click.UsageError(f"--server: write an address such as {DEFAULT_SERVER}, not {server!r}")
    return text.rstrip("/")


def _found_token(server: str) -> str | None:
    named = os.environ.get("HELIOSTAT_STATE")
    folders = (Path(named).expanduser(),) if named else ()
    return state_folder.find_token(server, folders, state_folder.default_folder(os.environ))


def _refusal(response: httpx.Response) -> DaemonError:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"the answer was {response.status_code} {response.reason_phrase}"
    return DaemonError(str(detail), response.status_code)


def _events(lines: Iterator[str]) -> Iterator[tuple[int, str, Any]]:
    """Read the event stream format: fields up to an empty line are one event."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            yield int(fields.get("id") or 0), fields.get("event", "message"), json.loads(fields["data"])
        fields = {}
