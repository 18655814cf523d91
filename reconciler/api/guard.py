"""Who may ask: hosts against DNS rebinding, origins against forged requests, the token against everybody else."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.api.problems import Problem, problem_response
from reconciler.api.rates import USUAL, Limiter, Rate
from reconciler.grants import Grant, Role
from reconciler.ports import Clock
from reconciler.settings import Secret

UNGUARDED = frozenset({"/healthz", "/readyz"})
"""They tell nothing, and probes call them by whatever name they know."""

SIGNED = "/webhooks/"
"""What is below has a signature that no web page can make: its senders know the daemon by its public name."""

BODY_WITHIN = timedelta(seconds=30)
"""A body that comes byte by byte holds one of a thousand connections for as long."""

READS = frozenset({"GET", "HEAD"})
CHALLENGE = {"WWW-Authenticate": 'Basic realm="heliostat", charset="UTF-8"'}
"""Browsers ask for a name (any) and a password (the token)."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """What opens the API: the bearer token, and host names beyond `localhost` and plain IP addresses."""

    token: Secret
    hosts: tuple[str, ...] = ()
    find: Callable[[str], Grant | None] = lambda token: None
    """What one of the further tokens opens."""
    reads_need_token: bool = False
    rate: Rate = USUAL

    def grant(self, text: str) -> Grant | None:
        """Return what a token opens, None for nothing."""
        if secrets.compare_digest(text.encode(), self.token.reveal().encode()):
            return Grant(name="operator", role=Role.OPERATE)
        return self.find(text)


class Guard:
    """ASGI middleware: who may ask at all, under which name and how often; security headers on every answer."""

    def __init__(self, app: ASGIApp, access: Access, clock: Clock) -> None:
        """Wrap `app`."""
        self._app = app
        self._access = access
        self._hosts = frozenset(access.hosts)
        self._clock = clock
        self._limiter = Limiter(access.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope.get("scheme") == "https":
                    headers.setdefault("Strict-Transport-Security", "max-age=31536000")
                headers.setdefault("Cache-Control", "no-cache" if "etag" in headers else "no-store")
            await send(message)

        await (self._refusal(scope) or self._app)(scope, in_time(receive), send_guarded)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to a request that goes no further, None for one that does."""
        if scope["path"] in UNGUARDED:
            return None
        wait = self._limiter.wait((scope.get("client") or ("",))[0], self._clock.now())
        if wait is not None:
            seconds = str(math.ceil(wait.total_seconds()))
            return problem_response(429, "this address asks too often", {"Retry-After": seconds})
        if scope["path"].startswith(SIGNED):
            return None
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not is_known_host(host, self._hosts):
            return _misdirected(host)
        if self._access.reads_need_token and scope["method"] in READS and _grant(headers, self._access) is None:
            return problem_response(401, "reading needs a token here: heliostat token make", CHALLENGE)
        return None


def in_time(receive: Receive) -> Receive:
    """Return how to receive a request whose body ends in time; whoever has sent it whole is waited for no longer."""
    is_whole = False
    deadline: float | None = None

    async def received() -> Message:
        nonlocal is_whole, deadline
        if is_whole:
            return await receive()
        deadline = deadline or asyncio.get_running_loop().time() + BODY_WITHIN.total_seconds()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            text = f"the body did not come within {BODY_WITHIN.total_seconds():g} s"
            raise Problem(408, text, {"Connection": "close"}) from None
        is_whole = not message.get("more_body", False)
        return message

    return received


def is_known_host(host: str, allowed: frozenset[str]) -> bool:
    """Return whether a Host header can be trusted.

    A web page that rebinds its own DNS name to our address can only send that name: `localhost`, IP
    addresses and names that the operator listed are out of its reach. The port does not matter (tunnels).
    """
    name = _without_port(host.lower())
    return name == "localhost" or _is_address(name) or name in allowed or host.lower() in allowed


def check_mutation(request: Request, access: Access) -> Grant:
    """Return whose request it is. Raises a Problem unless it comes from no page or our own, with a token to operate."""
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != f"{request.url.scheme}://{request.headers.get('host', '').lower()}":
        raise Problem(403, f"requests from pages of {origin} are refused")
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise Problem(403, "requests from other sites' pages are refused")
    if request.headers.get("authorization", "").partition(" ")[0].lower() != "bearer":
        # Browsers add a password that they know by themselves, also to requests that another page makes.
        raise _unauthorized("this needs a token: Authorization: Bearer TOKEN")
    grant = _grant(request.headers, access)
    if grant is None:
        raise _unauthorized(
            "this is not the daemon's token, which is in the file `token` of its state folder, and none of those that "
            "`heliostat token make` has made"
        )
    if grant.role is not Role.OPERATE:
        raise Problem(403, f"the token {grant.name!r} may read only: this needs one with the role {Role.OPERATE}")
    return grant


def _grant(headers: Headers, access: Access) -> Grant | None:
    """Return what a request's token opens: a bearer's, or the password that a browser has asked a person for."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return access.grant(given.strip())
    if scheme.lower() == "basic":
        try:
            return access.grant(base64.b64decode(given, validate=True).decode().partition(":")[2])
        except ValueError:
            return None
    return None


def _unauthorized(detail: str) -> Problem:
    return Problem(401, detail, {"WWW-Authenticate": 'Bearer realm="heliostat"'})


def _misdirected(host: str) -> ASGIApp:
    return problem_response(
        403,
        f"this daemon does not answer to the name {host!r}: call it by its address, or add the name to allowed_hosts",
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
