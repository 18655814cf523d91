"""Replicas over places: the arithmetic of spreading, without a service in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeVar

from specs.placement import MOST_SITES, Site

Key = TypeVar("Key")


def apportion(total: int, weights: Mapping[Key, Fraction | int]) -> dict[Key, int]:
    """Return whole parts of `total` in proportion to `weights`, by the largest remainder; ties go to the first.

    Equal parts when all weights are 0.
    """
    whole = sum(weights.values(), Fraction(0))
    shares = {key: Fraction(weight) if whole else Fraction(1) for key, weight in weights.items()}
    whole = whole or Fraction(len(shares))
    exact = {key: total * share / whole for key, share in shares.items()}
    parts = {key: int(value) for key, value in exact.items()}
    order = {key: place for place, key in enumerate(exact)}
    rest = sorted(exact, key=lambda key: (parts[key] - exact[key], order[key]))
    for key in rest[: total - sum(parts.values())]:
        parts[key] += 1
    return parts


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What one deployment's replicas of one revision are spread on.

    `load` is what other revisions are to have per zone; `caps` the most that a site may get (none: no limit);
    `own` what the revision has there now: of two places that are as good, it stays where it is. `weights` are those
    of zones that are not to be even, 1 where one is not named; one of 0 gets what has no room elsewhere.
    """

    load: Mapping[str | None, int] = field(default_factory=dict)
    caps: Mapping[Site, int] = field(default_factory=dict)
    own: Mapping[Site, int] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)


def spread(total: int, sites: Sequence[Site], ground: Ground) -> dict[Site, int]:
    """Return how many of `total` replicas each site gets: at least one each, then always the emptiest zone.

    With `load` that is even up to one, the sums are even up to one. With weights the emptiest is the one that is
    furthest below its part, by the highest averages (Sainte-Lague). Caps give way when all are reached: what
    nobody has room for waits where it would be even.
    """
    parts = dict.fromkeys(sites, 1)
    for capped in (True, False):
        while sum(parts.values()) < total:
            able = [site for site in sites if not capped or parts[site] < ground.caps.get(site, total)]
            if not able:
                break
            parts[min(able, key=lambda site: _fullness(site, parts, ground))] += 1
    return parts


def _fullness(site: Site, parts: Mapping[Site, int], ground: Ground) -> tuple[bool, float, int, int, str]:
    zone = sum(count for other, count in parts.items() if other.zone == site.zone) + ground.load.get(site.zone, 0)
    held = ground.own.get(site, 0)
    return *weighed(zone, ground.weights.get(site.zone or "", 1)), -min(1, max(0, held - parts[site])), -held, str(site)


def weighed(count: int, weight: int) -> tuple[bool, float]:
    """Return what orders zones by how soon they are to get one more replica: what is to be avoided comes last."""
    return weight == 0, (2 * count + 1) / (weight or 1)


def kept_ready(target: int, known: int, usable: int) -> int:
    """Return N with enough on top that losing one zone leaves `target`: ceil(N / (Z - 1)) in each of Z zones.

    Z are the `known` zones, as many of them as can have a replica at all. While one of them is lost the others keep
    what they have, and nothing is built anew for a zone that may be back in a minute.
    """
    zones = min(known, target, MOST_SITES)
    if zones < 2:
        return target
    return max(target, min(usable, zones) * -(-target // (zones - 1)))
