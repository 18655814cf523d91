"""Where a service's replicas are to be: zones and markets, as settings and as places of cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from specs.amount import Amount

ZONE_LABEL = "ray.io/availability-zone"
"""Ray's standard label of a node's availability zone."""

MARKET_LABEL = "ray.io/market-type"
"""Ray's standard label of how a node is paid for."""

MOST_SITES = 8
"""Cells of one revision: four zones of two markets. The gateway holds 32 lanes with a weight per service, which is
four times that: the stable revision, a candidate, its baseline and one that is leaving."""


class Market(StrEnum):
    """How a node is paid for: what may be taken away at any moment, and what stays."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"


MARKET_SELECTORS = {Market.SPOT: "spot", Market.ON_DEMAND: "!spot"}
"""As Ray's label selectors: whatever is not labelled spot, a node without the label included, stays."""


def market_of(labels: Mapping[str, str]) -> Market:
    """Return the market that a node with these labels belongs to."""
    return Market.SPOT if labels.get(MARKET_LABEL) == Market.SPOT else Market.ON_DEMAND


class ZoneFailure(StrEnum):
    """What is kept ready for the loss of a zone."""

    DEGRADE = "degrade"
    """Nothing: what was lost is built anew in the other zones."""
    TOLERATE = "tolerate"
    """ceil(N / (Z - 1)) replicas in each of Z zones: whichever is lost, the target is left."""


@dataclass(frozen=True, kw_only=True)
class ZoneSettings:
    """How replicas are spread over zones. Without `include` all zones that the nodes have may be used."""

    min: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    zone_failure: ZoneFailure = ZoneFailure.DEGRADE

    def allows(self, zone: str) -> bool:
        """Return whether replicas may be in a zone."""
        return zone not in self.exclude and (not self.include or zone in self.include)


@dataclass(frozen=True, kw_only=True)
class MarketSettings:
    """Which nodes are preferred. `base` replicas of each deployment are on demand, whatever is preferred."""

    prefer: Market = Market.SPOT
    base: Amount = field(default_factory=lambda: Amount(value=0))

    def on_demand(self, total: int) -> int:
        """Return how many of `total` replicas are to be on demand at least."""
        return min(total, self.base.round_up(total))


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where replicas are to be; nothing set: wherever Ray puts them."""

    zones: ZoneSettings | None = None
    market: MarketSettings | None = None
    policy: str = "spread"
    """Who decides how replicas are divided over what is allowed."""

    @property
    def is_free(self) -> bool:
        """Return whether replicas may be anywhere."""
        return self.zones is None and self.market is None

    def allows(self, site: Site) -> bool:
        """Return whether cells may be at a site: in an allowed zone if zones matter, in a market if that does."""
        if (site.zone is not None) != (self.zones is not None) or (site.market is not None) != (
            self.market is not None
        ):
            return False
        return self.zones is None or self.zones.allows(site.zone or "")

    def site_of(self, labels: Mapping[str, str]) -> Site | None:
        """Return the site that a node with these labels belongs to, None when no cell may be there."""
        zone = labels.get(ZONE_LABEL) if self.zones is not None else None
        site = Site(zone=zone or None, market=market_of(labels) if self.market is not None else None)
        return site if self.allows(site) else None


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place for cells: a zone and a market, None for any."""

    zone: str | None = None
    market: Market | None = None

    @property
    def selector(self) -> Mapping[str, str]:
        """Return the labels that keep replicas there."""
        market = MARKET_SELECTORS[self.market] if self.market is not None else None
        labels = {ZONE_LABEL: self.zone, MARKET_LABEL: market}
        return {label: value for label, value in labels.items() if value is not None}

    def __str__(self) -> str:
        """Return the words for a person: `us-east-1a`, `us-east-1a spot`, or `anywhere`."""
        return " ".join(part for part in (self.zone, self.market) if part) or "anywhere"


ANYWHERE = Site()


class SiteState(StrEnum):
    """Whether replicas may be put somewhere."""

    OPEN = "open"
    GONE = "gone"
    """No node there lives and takes replicas."""
    FULL = "full"
    """Serve found no room there; what is there stays."""
    FAILED = "failed"
    """The stable revision did not start there though it runs elsewhere."""


USABLE = frozenset({SiteState.OPEN, SiteState.FULL})
"""Where cells may be: in a full site what is there stays."""


@dataclass(frozen=True, kw_only=True)
class SiteMemory:
    """What is believed of a site, and since when. It follows what is seen with a delay, so that nothing flaps."""

    site: Site
    state: SiteState
    since: datetime
    contrary_since: datetime | None = None
    """Since when the nodes say otherwise."""
    closures: int = 0
    """How often it closed lately: each one makes the wait for its return longer."""
    placed: Mapping[str, int] = field(default_factory=dict)
    """FULL: replicas per deployment that have their place there."""


@dataclass(frozen=True, kw_only=True)
class Placing:
    """What another package's placement policy wished that is gone by, and since when.

    It follows what the policy says with a delay: replicas that are moved again and again serve nobody.
    """

    policy: str
    since: datetime
    zones: Mapping[str, int] = field(default_factory=dict)
    """Weights; 1 where a zone is not named."""
    on_demand: int = 0
    """Percent of the replicas that are on nodes that stay, at least."""
    message: str = ""
    silent_since: datetime | None = None
    """Since when nothing of use comes from the policy."""
