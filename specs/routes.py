"""The route table: which cells answer a service's requests, and with what share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FULL = 10_000
"""All of a service's requests, in basis points."""

ROUNDING = 1
"""What a share may be above the replicas that carry it, in basis points: whole replicas do not divide into them."""

MOST_SHARES = 32
"""How many cells of one service may have a weight at once: the gateway's generic rules are written for so many.

Each is two rules that every request passes: what they cost is in docs/benchmarks/gateway.md.
"""


@dataclass(frozen=True, kw_only=True)
class CellWeight:
    """One cell's share of its service's requests, in basis points of `FULL`.

    A cell with weight 0 has a lane and warm, checked servers, but gets no request.
    """

    cell: str
    weight: int
    zone: str | None = None
    """Where its replicas are; None: anywhere."""


CLIENT_NAME = r"[A-Za-z0-9_.-]{1,64}"
"""Names of cookies and headers that the gateway can look for: they stand in its maps as they are."""

HEADER_VALUE = r"[A-Za-z0-9._~:/@+=,-]([A-Za-z0-9._~:/@+=, -]{0,254}[A-Za-z0-9._~:/@+=,-])?"
"""Values of headers that it can look for: nothing that means something in a map or in a regular expression."""


class StickyKind(StrEnum):
    """By what a client is known. OVER: its cookie is taken back, nobody is kept any more."""

    COOKIE = "cookie"
    HEADER = "header"
    OVER = "over"


@dataclass(frozen=True, kw_only=True)
class Sticky:
    """A client stays on its version: the hash of its id takes the place of the dice.

    `name` is the cookie's or, in lower case, the header's.
    """

    kind: StickyKind
    name: str


@dataclass(frozen=True, kw_only=True)
class HeaderMatch:
    """A request header (`name` in lower case) that is, or with `is_prefix` begins with, `value`."""

    name: str
    value: str
    is_prefix: bool = False


@dataclass(frozen=True, kw_only=True)
class HeaderRoute:
    """Requests that fit one of `matches` go to `cell`, whatever its weight, while a server of it is up."""

    cell: str
    matches: tuple[HeaderMatch, ...]


@dataclass(frozen=True, kw_only=True)
class ServiceRoute:
    """One service's row. `cells` are ordered revision by revision, stable first.

    The order matters: shares are cumulative thresholds, so growth moves clients one way only. The
    weights sum to `FULL`, or to 0 when nothing may be routed.
    """

    service: str
    route: str
    cells: tuple[CellWeight, ...]
    max_request_seconds: float = 600.0
    sticky: Sticky | None = None
    header: HeaderRoute | None = None
    may_prefer_zone: bool = False
    """A gateway may send more to the cells in its own zone than they weigh: all are alike, and none is being judged."""


@dataclass(frozen=True, kw_only=True)
class RouteTable:
    """Every service that the gateway answers for, by service name."""

    services: tuple[ServiceRoute, ...] = ()

    def service(self, name: str) -> ServiceRoute | None:
        """Return the row of the service called `name`, or None."""
        return next((row for row in self.services if row.service == name), None)
