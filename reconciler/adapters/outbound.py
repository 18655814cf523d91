"""HTTP to addresses that users wrote: the one way out, guarded.

A spec may name any address, and the daemon stands where metadata services and Ray's dashboard can be reached. So
a call goes only to hosts that the daemon's settings allow; the name is resolved here, each of its addresses is
checked, and the connection is made to a checked address (a name that resolves otherwise a moment later does not
matter). Redirects are refused, nothing of the environment (proxies, netrc) is used, and whatever is sent back is
read for a limited time up to a limited size. Messages name the server, never the path: hooks hold secrets there.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, urlsplit

import httpx

from reconciler.adapters.addresses import is_loopback_name, why_forbidden
from reconciler.errors import Retry, Stalled
from reconciler.settings import DEFAULT_PORTS, AllowedHost

CONNECT_WITHIN = timedelta(seconds=5)
ADDRESSES_TRIED = 4
"""Of a name with many addresses: a call that tried them all would outlast whoever waits for it."""

DEFAULT_LIMIT = 64 * 1024

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and a port to its addresses, as texts. Raises OSError."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Resolve as the system does: hosts file, DNS, literal addresses."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request. `within` limits all of it, from the look-up of the name to the last byte of the answer."""

    method: str
    url: str
    within: timedelta
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes | None = field(default=None, repr=False)
    limit: int = DEFAULT_LIMIT
    """Bytes of the answer that are read at most."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered."""

    status: int
    body: bytes = field(repr=False)


class Outbound:
    """The client. `allowed` hosts come from the daemon's settings, never from Git."""

    def __init__(
        self, allowed: Sequence[AllowedHost], *, resolver: Resolver = resolve, tls: ssl.SSLContext | None = None
    ) -> None:
        """`tls` is what servers are checked against; None: the system's certificate authorities."""
        self._allowed = tuple(allowed)
        self._resolve = resolver
        # Connections are not kept: they belong to an address, and would be taken for another host there.
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                verify=tls or ssl.create_default_context(),
                trust_env=False,
                limits=httpx.Limits(max_connections=64, max_keepalive_connections=0),
            ),
            trust_env=False,
            follow_redirects=False,
        )

    async def send(self, call: Call) -> Reply:
        """Send a request and return the answer, whatever its status but a redirect.

        Raises Stalled when the address is not allowed or redirects, Retry when nothing came back in time.
        """
        parts = _checked(call.url)
        where = shown(call.url)
        allowed = self._rule(parts, where)
        try:
            async with asyncio.timeout(call.within.total_seconds()):
                addresses = await self._addresses(parts, allowed, where)
                return await self._try(call, parts, addresses, where)
        except TimeoutError:
            raise Retry(f"{where} did not answer within {call.within.total_seconds():g} s.") from None

    async def aclose(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close what is open."""
        await self.aclose()

    def _rule(self, parts: SplitResult, where: str) -> AllowedHost:
        """Return the setting that allows a host. Raises Stalled when none does."""
        host, port = str(parts.hostname), _port(parts)
        for rule in self._allowed:
            if rule.allows(host, port):
                return rule
        raise Stalled(
            f"{where} is not called: the daemon's settings do not allow this host. If they should, start it with "
            f"--allow-host {host}{'' if port in DEFAULT_PORTS else f':{port}'} (HELIOSTAT_ALLOW_HOSTS)."
        )

    async def _addresses(self, parts: SplitResult, allowed: AllowedHost, where: str) -> list[str]:
        """Return the addresses to connect to. One that is forbidden condemns the name: it is not what it seems."""
        try:
            found = await self._resolve(str(parts.hostname), _port(parts))
        except OSError as error:
            raise Retry(f"{where}: the name cannot be resolved ({error.strerror or error}).") from None
        except UnicodeError:
            raise Stalled(f"{where}: this is no host name (a part is empty or longer than 63 letters).") from None
        if not found:
            raise Retry(f"{where}: the name has no address.")
        for address in found:
            why = why_forbidden(address, may_be_loopback=is_loopback_name(allowed.host))
            if why:
                raise Stalled(f"{where} is not called: {why}.")
        return list(found)[:ADDRESSES_TRIED]

    async def _try(self, call: Call, parts: SplitResult, addresses: list[str], where: str) -> Reply:
        try:
            for address in addresses[:-1]:
                with suppress(httpx.ConnectError, httpx.ConnectTimeout):  # Nothing was sent yet: the next one gets it.
                    return await self._send(call, parts, address, where)
            return await self._send(call, parts, addresses[-1], where)
        except httpx.TimeoutException:
            raise Retry(f"{where} did not answer in time.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Retry(f"{where} cannot be reached: {str(error) or type(error).__name__}.") from None

    async def _send(self, call: Call, parts: SplitResult, address: str, where: str) -> Reply:
        """Send to one checked address; name and certificate stay those of the host that was written."""
        connect = min(call.within, CONNECT_WITHIN).total_seconds()
        request = self._client.build_request(
            call.method,
            parts._replace(netloc=f"{_bracketed(address)}:{_port(parts)}").geturl(),
            headers={
                "Host": parts.netloc,
                "User-Agent": "heliostat",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                **call.headers,
            },
            content=call.content,
            timeout=httpx.Timeout(call.within.total_seconds(), connect=connect),
            extensions={"sni_hostname": parts.hostname},
        )
        response = await self._client.send(request, stream=True)
        try:
            if 300 <= response.status_code < 400:
                to = shown(response.headers.get("location", ""))
                raise Stalled(f"{where} redirects{f' to {to}' if to else ''}: redirects are not followed, write where.")
            return Reply(status=response.status_code, body=await _body(response, call.limit, where))
        finally:
            await response.aclose()


async def _body(response: httpx.Response, limit: int, where: str) -> bytes:
    """Read the body as it came: unpacking what was not asked for could fill the memory."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise Retry(f"{where} answered with more than {limit} bytes.")
    return bytes(body)


def shown(url: str) -> str:
    """Return a URL as it may be logged: scheme, host and port."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the address"
    return f"{parts.scheme}://{_bracketed(parts.hostname)}{port}" if parts.hostname else ""


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and _port(parts) > 0
    except ValueError:
        is_sound = False
    if not is_sound or "@" in parts.netloc:
        raise Stalled("The address is no http:// or https:// URL without credentials: correct it.")
    return parts


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _bracketed(host: str | None) -> str:
    return f"[{host}]" if host and ":" in host else str(host)
