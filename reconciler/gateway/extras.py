"""What only some services ask for: clients that stay on their version, headers that ask for the candidate.

One word of the service's row, `KIND:NAME:RULE:LANE` with `-` for nothing, so that it changes together with the
weights; `-` alone for every other service, which pays for conditions that do not hold. HAProxy takes no header's
name from data, so the matches of a header route are one regular expression over the header block, in a map of
their own under a name that is the digest of the matches: it is there before a row names it, and goes after.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from specs.routes import (
    CLIENT_NAME,
    HEADER_VALUE,
    HeaderMatch,
    HeaderRoute,
    RouteTable,
    ServiceRoute,
    Sticky,
    StickyKind,
)

NOTHING = "-"
MATCHED = "1"
"""The value of every entry of the map of header routes: that there is one is the answer."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """One service's word. `rule` and `lane`: where requests with the right header go."""

    sticky: Sticky | None = None
    rule: str = ""
    lane: str = ""

    def __str__(self) -> str:
        """Return the word that HAProxy reads."""
        if self.sticky is None and not self.rule:
            return NOTHING
        kind, name = (self.sticky.kind.value, self.sticky.name) if self.sticky else (NOTHING, NOTHING)
        return ":".join((kind, name, self.rule or NOTHING, self.lane or NOTHING))


def parse_extras(word: str) -> Extras:
    """Read the word back. Raises ValueError when it was not written by us."""
    if word == NOTHING:
        return Extras()
    kind, name, rule, lane = (None if part == NOTHING else part for part in word.split(":"))
    sticky = Sticky(kind=StickyKind(kind), name=name or "") if kind else None
    return Extras(sticky=sticky, rule=rule or "", lane=lane or "")


def make_extras(service: ServiceRoute, lanes: Mapping[str, str]) -> Extras:
    """Return the word of a service whose cells have leased `lanes` (lane by cell)."""
    header = service.header if service.header and service.header.matches else None
    return Extras(
        sticky=service.sticky,
        rule=rule_name(header.matches) if header else "",
        lane=lanes[header.cell] if header else "",
    )


def rule_name(matches: Iterable[HeaderMatch]) -> str:
    """Return the name of a header rule, by its content."""
    text = "|".join(f"{match.name}{'^=' if match.is_prefix else '='}{match.value}" for match in matches)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def header_rules(table: RouteTable) -> frozenset[str]:
    """Return the regular expressions of all header routes, the keys of their map."""
    routes = (service.header for service in table.services if service.header and service.header.matches)
    return frozenset(_expression(route) for route in routes)


def _expression(route: HeaderRoute) -> str:
    """Match `RULE=` and the header block as HAProxy gives it: `name: value` lines, names in lower case.

    Written without a backslash, for HAProxy's command line reads those itself; a line ends with a control character.
    """
    lines = "|".join(
        f"{_literal(match.name)}:[[:blank:]]{_literal(match.value)}{'' if match.is_prefix else '[[:cntrl:]]'}"
        for match in route.matches
    )
    return f"^(?s){rule_name(route.matches)}=(?:.*?[[:cntrl:]])?(?:{lines})"


def _literal(text: str) -> str:
    return text.replace("+", "[+]").replace(".", "[.]").replace(" ", "[[:blank:]]")


def problem_of(service: ServiceRoute) -> str | None:
    """Return why the gateway cannot express what a service asks for beside its weights, or None."""
    matches = service.header.matches if service.header else ()
    names = [*([service.sticky.name] if service.sticky else []), *(match.name for match in matches)]
    for name in names:
        if not re.fullmatch(CLIENT_NAME, name):
            return f"the cookie or header name {name!r}: write at most 64 letters, digits, dashes, dots and underscores"
    for match in matches:
        if not re.fullmatch(HEADER_VALUE, match.value):
            return f"the header value {match.value!r}: write at most 256 letters, digits, spaces and ._~:/@+=,-"
    if service.header and service.header.cell not in {cell.cell for cell in service.cells}:
        return f"a header route to {service.header.cell}, which is no cell of it"
    return None
