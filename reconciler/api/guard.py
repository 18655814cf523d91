"""Who may ask: hosts against DNS rebinding, origins against forged requests, the token against everybody else."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.api.problems import Problem, problem_response
from reconciler.settings import Secret

UNGUARDED = frozenset({"/healthz", "/readyz"})
"""They tell nothing, and probes call them by whatever name they know."""

SIGNED = "/webhooks/"
"""What is below has a signature that no web page can make: its senders know the daemon by its public name."""

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


class Guard:
    """ASGI middleware: refuses foreign Host headers, and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        """Wrap `app`; `hosts` are the allowed names."""
        self._app = app
        self._hosts = frozenset(hosts)

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
                headers.setdefault("Cache-Control", "no-cache" if "etag" in headers else "no-store")
            await send(message)

        host = Headers(scope=scope).get("host", "")
        is_open = scope["path"] in UNGUARDED or scope["path"].startswith(SIGNED)
        if is_open or is_known_host(host, self._hosts):
            await self._app(scope, receive, send_guarded)
        else:
            await _misdirected(host)(scope, receive, send_guarded)


def is_known_host(host: str, allowed: frozenset[str]) -> bool:
    """Return whether a Host header can be trusted.

    A web page that rebinds its own DNS name to our address can only send that name: `localhost`, IP
    addresses and names that the operator listed are out of its reach. The port does not matter (tunnels).
    """
    name = _without_port(host.lower())
    return name == "localhost" or _is_address(name) or name in allowed or host.lower() in allowed


def check_mutation(request: Request, access: Access) -> None:
    """Raise a Problem unless the request comes from our own page or from no page, with the right token."""
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != f"{request.url.scheme}://{request.headers.get('host', '').lower()}":
        raise Problem(403, f"requests from pages of {origin} are refused")
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise Problem(403, "requests from other sites' pages are refused")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise _unauthorized("this needs the daemon's token: Authorization: Bearer TOKEN")
    if not secrets.compare_digest(given.strip().encode(), access.token.reveal().encode()):
        raise _unauthorized("this is not the daemon's token; it is in the file `token` of its state folder")


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
