"""Who depends on whom, over all files of a commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def circles(needs: Iterable[Need]) -> tuple[tuple[Need, ...], ...]:
    """Return the shortest circle through each service that, in the end, depends on itself; it is the first link."""
    by_service: dict[str, list[Need]] = {}
    for need in sorted(needs):
        by_service.setdefault(need.service, []).append(need)
    found = (_way_back(service, by_service) for service in sorted(by_service))
    return tuple(circle for circle in found if circle)


def _way_back(start: str, needs: Mapping[str, list[Need]]) -> tuple[Need, ...]:
    """Look from `start` in widening rings until it is found again; () when it is not."""
    ring: list[tuple[Need, ...]] = [(need,) for need in needs[start]]
    seen: set[str] = set()
    while ring:
        wider: list[tuple[Need, ...]] = []
        for way in ring:
            here = way[-1].name
            if here == start:
                return way
            if here not in seen:
                seen.add(here)
                wider += [(*way, need) for need in needs.get(here, ())]
        ring = wider
    return ()
