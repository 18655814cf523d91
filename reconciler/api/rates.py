"""How often one address may ask: enough for pages, pipelines and webhooks, too little to keep the daemon busy."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

MOST_ADDRESSES = 10_000
"""Of callers that are remembered; the one that was seen longest ago is forgotten first."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many requests a second for ever, and so many at once after a pause."""

    per_second: float = 200.0
    burst: int = 1000


USUAL = Rate()


class Limiter:
    """A bucket for each address, filled by time and emptied by requests."""

    def __init__(self, rate: Rate) -> None:
        """All buckets are full."""
        self._rate = rate
        self._buckets: OrderedDict[str, tuple[float, datetime]] = OrderedDict()

    def wait(self, address: str, now: datetime) -> timedelta | None:
        """Take in one request; return how long its sender has to wait before it is answered, None when not at all."""
        address = caller(address)
        tokens, since = self._buckets.pop(address, (float(self._rate.burst), now))
        passed = max(0.0, (now - since).total_seconds())
        tokens = min(float(self._rate.burst), tokens + passed * self._rate.per_second)
        is_free = tokens >= 1.0
        self._buckets[address] = (tokens - 1.0 if is_free else tokens, now)
        while len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return None if is_free else timedelta(seconds=math.ceil((1.0 - tokens) / self._rate.per_second))


def caller(address: str) -> str:
    """Return who has an address: in IPv6 one machine has a network of them, and may use another for each request."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
