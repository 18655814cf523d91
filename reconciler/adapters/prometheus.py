"""Numbers from a Prometheus server, by its HTTP API (also that of Thanos, Mimir and VictoriaMetrics)."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, unquote, urlencode, urlsplit, urlunsplit

from reconciler.adapters.outbound import Call, Outbound, Reply, Resolver, resolve, shown
from reconciler.errors import Retry, Stalled
from reconciler.ports import Measured
from reconciler.settings import AllowedHost

ANSWER_WITHIN = timedelta(seconds=10)
"""A server that needs longer for one number would be asked again before it answered."""

ANSWER_LIMIT = 256 * 1024
"""A query that gives one number needs a few hundred bytes; one that lists a cluster's series is a mistake."""

REFUSED = frozenset({400, 401, 403, 404, 405, 414, 422})


class Prometheus:
    """Implements `reconciler.ports.MetricsServer` for the one server that the settings name."""

    def __init__(self, url: str, *, resolver: Resolver = resolve) -> None:
        """`url` may hold credentials and a path; "" when no server is set."""
        parts = urlsplit(url)
        self._url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if url else ""
        self._headers = _authorization(parts)
        allowed = [AllowedHost(host=str(parts.hostname), port=_port(parts))] if url else []
        self._outbound = Outbound(allowed, resolver=resolver)

    async def query(self, query: str) -> Measured:
        """Return the one number that a query gives now."""
        if not self._url:
            raise Stalled("no metrics server is set: start the daemon with --prometheus URL (HELIOSTAT_PROMETHEUS).")
        where = shown(self._url)
        reply = await self._outbound.send(
            Call(
                method="GET",
                url=f"{self._url}/api/v1/query?{urlencode({'query': query})}",
                within=ANSWER_WITHIN,
                headers=self._headers,
                limit=ANSWER_LIMIT,
            )
        )
        return _measured(_answer(reply, where), where)

    async def __aenter__(self) -> Self:
        """Return the server itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close what is open."""
        await self._outbound.aclose()


def _authorization(parts: SplitResult) -> Mapping[str, str]:
    if not parts.username:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _answer(reply: Reply, where: str) -> Mapping[str, Any]:
    """Return the answer's data. Raises what the API's errors mean to whoever waits for a number."""
    try:
        said = json.loads(reply.body)
        said = said if isinstance(said, dict) else {}
    except (ValueError, RecursionError):
        said = {}
    error = " ".join(str(said.get("error", "")).split())[:300]
    if reply.status in REFUSED:
        raise Stalled(f"{where} refuses the query ({reply.status}){': ' + error if error else ''}.")
    data = said.get("data")
    if reply.status != 200 or said.get("status") != "success" or not isinstance(data, dict):
        raise Retry(f"{where} answered {reply.status}{': ' + error if error else ' and no result'}.")
    return data


def _measured(data: Mapping[str, Any], where: str) -> Measured:
    kind, result = data.get("resultType"), data.get("result")
    if kind == "scalar" and isinstance(result, list):
        return _number(result)
    if kind != "vector" or not isinstance(result, list):
        return Measured(value=None, message=f"the query gives a {kind}: write one that gives a single number")
    if not result:
        return Measured(value=None, message="the query gives no series")
    if len(result) > 1:
        return Measured(value=None, message=f"the query gives {len(result)} series: aggregate them, with sum() for one")
    if not isinstance(result[0], dict):
        raise Retry(f"{where} answered with a series that cannot be read.")
    return _number(result[0].get("value"))


def _number(sample: Any) -> Measured:
    """Read `[time, "text of a number"]`."""
    try:
        value = float(sample[1])
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return Measured(value=None, message="the value cannot be read as a number")
    if not math.isfinite(value):
        return Measured(value=None, message=f"the value is {sample[1]}, which is no number to judge by")
    return Measured(value=value)
