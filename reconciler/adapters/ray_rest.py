"""Ray's dashboard over HTTP: one client, a time-out on every call, errors in the two words of the ports.

Bodies are never logged: Serve answers with every application's `env_vars` in clear.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import httpx

from reconciler.errors import Retry, Stalled

READ_WITHIN = timedelta(seconds=10)
"""Serve answers in tens of milliseconds; a dashboard that needs longer is not fit to decide on."""

CONNECT_WITHIN = timedelta(seconds=3)

UNREACHABLE_PAUSE = timedelta(seconds=2)

TEXT_LIMIT = 600
"""Ray answers errors with whole tracebacks; people need their end."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What Ray answered, when it was neither a refusal nor an outage."""

    status: int
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Return the body as JSON. Raises Retry when it is none, which happens while Ray restarts."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Retry("Ray's dashboard answered something that is not JSON; it may be restarting.") from None

    @property
    def text(self) -> str:
        """Return the end of the body as text, short enough for a message."""
        text = self.body.decode(errors="replace").strip()
        return text if len(text) <= TEXT_LIMIT else "..." + text[-TEXT_LIMIT:]


class RayRest:
    """One Ray dashboard, such as http://127.0.0.1:8265."""

    def __init__(
        self, base_url: str, *, token: str | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """`token` is for clusters with `RAY_AUTH_MODE=token`; `transport` is for tests."""
        self.base_url = base_url.rstrip("/")
        # Only what is needed: with headers like a browser's, Ray masks secrets, and a masked document must never
        # be written back. Proxies of the environment are for the internet, not for the cluster.
        headers = {"User-Agent": "heliostat", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers,
            timeout=httpx.Timeout(READ_WITHIN.total_seconds(), connect=CONNECT_WITHIN.total_seconds()),
            trust_env=False,
            follow_redirects=False,
            transport=transport,
        )

    async def get(self, path: str, *, params: Mapping[str, str] | None = None) -> Answer:
        """GET `path`."""
        return await self._send(self._client.build_request("GET", path, params=params), READ_WITHIN)

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        within: timedelta = READ_WITHIN,
        may_fail: bool = False,
    ) -> Answer:
        """PUT or POST `body`: bytes as they are, else as JSON. With `may_fail` the caller looks at a 5xx itself."""
        timeout = httpx.Timeout(within.total_seconds(), connect=CONNECT_WITHIN.total_seconds())
        if isinstance(body, bytes):
            request = self._client.build_request(method, path, content=body, timeout=timeout)
        else:
            request = self._client.build_request(method, path, json=body, timeout=timeout)
        return await self._send(request, within, may_fail=may_fail)

    def failed(self, answer: Answer) -> Retry:
        """Return what to raise for a 5xx."""
        return Retry(f"Ray's dashboard at {self.base_url} failed ({answer.status}): {last_line(answer.text)}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def _send(self, request: httpx.Request, within: timedelta, *, may_fail: bool = False) -> Answer:
        """Send a request; all of its answer has to be there in time, not just another byte of it."""
        try:
            async with asyncio.timeout((CONNECT_WITHIN + within).total_seconds()):
                response = await self._client.send(request)
        except (httpx.TimeoutException, TimeoutError):
            raise Retry(f"Ray's dashboard at {self.base_url} did not answer in time.", UNREACHABLE_PAUSE) from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Retry(f"Ray's dashboard at {self.base_url} cannot be reached: {reason}.", UNREACHABLE_PAUSE) from None
        answer = self._judge(Answer(status=response.status_code, body=response.content))
        if answer.status >= 500 and not may_fail:
            raise self.failed(answer)
        return answer

    def _judge(self, answer: Answer) -> Answer:
        """Raise for what no caller can do anything about."""
        if answer.status in (401, 403):
            raise Stalled(
                f"Ray's dashboard at {self.base_url} refuses Heliostat ({answer.status}). The cluster runs with "
                "RAY_AUTH_MODE=token: give its token with --ray-token-file or HELIOSTAT_RAY_TOKEN, and check that it "
                "is the right one."
            )
        if answer.status == 501:
            raise Stalled(
                f"The Ray cluster at {self.base_url} has no Ray Serve. Install `ray[serve]` in the cluster's image."
            )
        return answer


def last_line(text: str) -> str:
    """Return the last line of a traceback, the one that says what is wrong."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no explanation"
