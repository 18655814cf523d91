"""A service's row in the route map: everything that HAProxy needs to choose a lane, in one value.

`DEPTH|SERVICE|PREFIX|EXTRAS|THRESHOLD|LANE|THRESHOLD|LANE...|NEAR|FAR`, read with `word(n,|)`. One row changes with
one `set map`, so no request ever sees half of a change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from reconciler.errors import Stalled
from reconciler.gateway.extras import NOTHING, Extras, make_extras, parse_extras, problem_of
from reconciler.gateway.near import Preference, make_preference, take_preference
from specs.routes import FULL, MOST_SHARES, ServiceRoute

STRIPS = (1, 2, 4, 8, 16, 32, 64)
"""Path segments that one rewriting rule takes away; together they take any number up to MAX_DEPTH."""

MAX_DEPTH = sum(STRIPS)

FIRST_SHARE = 5
"""The word at which the first threshold stands, counted from 1."""

_ROUTE = re.compile(r"/|(/[A-Za-z0-9._~!$&'()*+,=:@-]+)+")


@dataclass(frozen=True, kw_only=True)
class Share:
    """A lane answers the dice below `threshold` that no earlier share answers."""

    threshold: int
    lane: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One service's row. `shares` ascend to FULL; none: nothing may be routed."""

    service: str
    route: str
    shares: tuple[Share, ...]
    extras: Extras = field(default_factory=Extras)
    preference: Preference = field(default_factory=Preference)

    @property
    def key(self) -> str:
        """Return the key in the route map; it ends in `/` so that `/chat` does not match `/chatter`."""
        return route_key(self.route)

    def weights(self) -> dict[str, int]:
        """Return basis points per lane."""
        thresholds = [0, *(share.threshold for share in self.shares)]
        return {share.lane: high - low for share, (low, high) in zip(self.shares, pairwise(thresholds), strict=True)}

    def __str__(self) -> str:
        """Return the text that HAProxy reads."""
        depth = self.route.rstrip("/").count("/")
        words = [str(depth), self.service, self.route, str(self.extras)]
        for share in self.shares:
            words += [str(share.threshold), share.lane]
        return "|".join([*words, *self.preference.words])


def route_key(route: str) -> str:
    """Return the route map's key for a public route."""
    return route.rstrip("/") + "/"


def parse_row(text: str) -> Row:
    """Read a row back from HAProxy. Raises ValueError when it was not written by us."""
    words = text.split("|")
    preference = take_preference(words)
    # A row of an older Heliostat, in a HAProxy that is about to be replaced, has no extras: an odd number of words.
    extras = words.pop(3) if len(words) % 2 == 0 else NOTHING
    _, service, route, *rest = words
    pairs = zip(rest[::2], rest[1::2], strict=True)
    shares = tuple(Share(threshold=int(threshold), lane=lane) for threshold, lane in pairs)
    return Row(service=service, route=route, shares=shares, extras=parse_extras(extras), preference=preference)


def make_row(
    service: ServiceRoute, lanes: Mapping[str, str], zone: str | None = None, rooms: Mapping[str, int] | None = None
) -> Row:
    """Return the row of a service whose cells have leased `lanes` (lane by cell).

    A gateway in `zone` prefers the cells there by their `rooms`, requests per replica and cell.

    Cells without weight are left out: they are warm, but not even a fallback sends them a request.
    """
    shares: list[Share] = []
    threshold = 0
    for cell in service.cells:
        if cell.weight > 0:
            threshold += cell.weight
            shares.append(Share(threshold=threshold, lane=lanes[cell.cell]))
    extras = make_extras(service, lanes)
    preference = make_preference(service, lanes, zone, rooms or {})
    return Row(service=service.service, route=service.route, shares=tuple(shares), extras=extras, preference=preference)


def check_routes(services: Iterable[ServiceRoute]) -> None:
    """Raise Stalled for what the gateway's rules cannot express.

    Weights that make no whole would be a bug; they are refused and told like all else, for a daemon that dies of a
    table dies of it again at each start, and traffic is better off with the rows that it has.
    """
    owners: dict[str, str] = {}
    for service in services:
        total = sum(cell.weight for cell in service.cells)
        if total not in {0, FULL}:
            raise Stalled(
                f"the weights of {service.service} sum to {total}, not to {FULL} or 0: this is a bug of Heliostat's; "
                "its routes stay as they are"
            )
        weighted = sum(1 for cell in service.cells if cell.weight > 0)
        if weighted > MOST_SHARES:
            raise Stalled(
                f"{service.service} has {weighted} cells with a weight; the gateway holds at most {MOST_SHARES}:"
                " use fewer zones or wait until old revisions are gone"
            )
        if not _ROUTE.fullmatch(service.route) or service.route.count("/") > MAX_DEPTH:
            raise Stalled(
                f"the route {service.route!r} of {service.service} cannot be served: write / or a path such as"
                f" /chat, unencoded, with at most {MAX_DEPTH} segments"
            )
        problem = problem_of(service)
        if problem is not None:
            raise Stalled(f"{service.service} wants what the gateway cannot express: {problem}")
        other = owners.setdefault(route_key(service.route), service.service)
        if other != service.service:
            raise Stalled(f"{other} and {service.service} both want the route {service.route}: change one of them")
