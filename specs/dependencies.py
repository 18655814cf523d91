"""Who depends on whom, over all files of a commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, order=True)
class Need:
    """One entry of a service's `dependsOn`, and where it is written."""

    service: str
    name: str
    path: str
    line: int
    column: int

    @property
    def place(self) -> str:
        """Return `file:line:column`."""
        return f"{self.path}:{self.line}:{self.column}"


MOST_STEPS = 200_000
"""Links that are followed in all to find the shortest circles: in thousands of services that all hang together each
search goes through all of them."""


def circles(needs: Iterable[Need]) -> tuple[tuple[Need, ...], ...]:
    """Return the shortest circle through each service that, in the end, depends on itself; it is the first link.

    Where that would take for ever it is only the service's own link, which leads to another service.
    """
    by_service: dict[str, list[Need]] = {}
    for need in sorted(needs):
        by_service.setdefault(need.service, []).append(need)
    inside = _peeled(by_service)
    steps = iter(range(MOST_STEPS))
    found = (_way_back(service, inside, steps) for service in sorted(inside))
    return tuple(circle for circle in found if circle)


def _peeled(needs: Mapping[str, list[Need]]) -> Mapping[str, list[Need]]:
    """Return what is left once whoever needs nobody, or is needed by nobody, is taken away again and again."""
    links = {name: {need.name for need in mine if need.name in needs} for name, mine in needs.items()}
    left = _without_ends(_turned(_without_ends(links)))
    return {name: [need for need in needs[name] if need.name in left] for name in left}


def _without_ends(links: Mapping[str, set[str]]) -> Mapping[str, set[str]]:
    """Return the links without names that lead nowhere, those that lead only to these, and so on."""
    left, leading = {name: set(others) for name, others in links.items()}, _turned(links)
    ends = [name for name, others in left.items() if not others]
    while ends:
        name = ends.pop()
        del left[name]
        for other in leading[name]:
            left[other].discard(name)
            ends += [] if left[other] else [other]
    return left


def _turned(links: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the links the other way round."""
    turned: dict[str, set[str]] = {name: set() for name in links}
    for name, others in links.items():
        for other in others:
            turned[other].add(name)
    return turned


def _way_back(start: str, needs: Mapping[str, list[Need]], steps: Iterator[int]) -> tuple[Need, ...]:
    """Look from `start` in widening rings until it is found again; () when it is not, its first link when it is late.

    Each link that is followed takes one of the steps.
    """
    came_by: dict[str, Need] = {}
    ring = [start]
    while ring:
        wider = []
        for here in ring:
            for need in needs[here]:
                if next(steps, None) is None:
                    return (needs[start][0],)
                if need.name not in came_by:
                    came_by[need.name] = need
                    wider.append(need.name)
                if need.name == start:
                    return _way(start, came_by)
        ring = wider
    return ()


def _way(start: str, came_by: Mapping[str, Need]) -> tuple[Need, ...]:
    links = [came_by[start]]
    while links[-1].service != start:
        links.append(came_by[links[-1].service])
    return tuple(reversed(links))
