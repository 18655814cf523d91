"""The unit of placement: one cell is one Serve application."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from specs.placement import Market, Site
from specs.snapshot import Snapshot

ANY = "-"
"""How an unset zone or market is written in a cell's name."""


@dataclass(frozen=True, kw_only=True, order=True)
class CellKey(Snapshot):
    """(service, revision, zone, market, generation); the generation counts re-creations."""

    service: str
    revision: str
    zone: str | None = None
    market: Market | None = None
    generation: int = 0

    @cached_property
    def name(self) -> str:
        """Return the Serve application's name, `SERVICE.REVISION.ZONE.MARKET.GENERATION`."""
        fields = (self.service, self.revision, self.zone or ANY, self.market or ANY, str(self.generation))
        return ".".join(fields)

    @cached_property
    def site(self) -> Site:
        """Return where the cell's replicas are kept."""
        return Site(zone=self.zone, market=self.market)

    @property
    def route_prefix(self) -> str:
        """Return the private route prefix under which Serve serves this cell."""
        return f"/_/{self.name}"


def parse_cell_name(name: str) -> CellKey | None:
    """Read a cell's name back; None when `name` is not of that form.

    Only for recovery after a lost state: a cell is ours because Memory says so, not because of its name.
    """
    fields = name.split(".")
    if len(fields) != 5 or not fields[4].isdecimal() or not all(fields):
        return None
    service, revision, zone, market, generation = fields
    if market not in (ANY, *Market):
        return None
    return CellKey(
        service=service,
        revision=revision,
        zone=None if zone == ANY else zone,
        market=None if market == ANY else Market(market),
        generation=int(generation),
    )
