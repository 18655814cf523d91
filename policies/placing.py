"""What another package's placement policy wishes, and how much of it is gone by, and when.

Wishes are taken up slowly: a policy that changes its mind at each look would have replicas started and stopped for
ever. One that fails goes on being followed for a while, since a process that is started anew is no reason to move
anything, and then replicas are spread as without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from policies.counsel import Trouble, advised
from policies.recall import recalled
from policies.registry import others
from policies.view import ServiceView
from specs.decisions import HeedWish
from specs.desired import AutoScale
from specs.placement import Placing, ZoneFailure
from specs.wishes import Apportion, PolicyKind, Stand, with_message

TAKEN_UP_AFTER = timedelta(minutes=10)
"""Between two changes: replicas that are started for one wish are to serve before the next one moves them."""

KEPT = timedelta(minutes=5)
"""How long a wish outlives its policy."""

TOLD = 8
"""So many zones of a wish are named in events and status."""


def followed(view: ServiceView) -> Placing | None:
    """Return the wish that is gone by, None while there is none of the policy that the spec names."""
    placing = view.memory.placing
    return placing if placing is not None and placing.policy == view.spec.placement.policy else None


def zone_weights(view: ServiceView) -> Mapping[str, int]:
    """Return the weights of zones that are not to be even; {} when all are."""
    placing = followed(view)
    return placing.zones if placing is not None and not needs_even_zones(view) else {}


def needs_even_zones(view: ServiceView) -> bool:
    """Return whether the spec's own promise rests on even zones: what is left when the fullest one is lost."""
    zones = view.spec.placement.zones
    return zones is not None and zones.zone_failure is ZoneFailure.TOLERATE


def on_demand(view: ServiceView, total: int) -> int:
    """Return how many of `total` replicas are to be on demand at least: the spec's base, or more by a wish.

    A base does not scale, so a share of what scales cannot be added to it.
    """
    market, placing = view.spec.placement.market, followed(view)
    base = market.on_demand(total) if market is not None else 0
    if placing is None or is_autoscaled(view):
        return base
    return max(base, -(-total * placing.on_demand // 100))


def is_autoscaled(view: ServiceView) -> bool:
    """Return whether Serve scales any deployment of the service."""
    return any(isinstance(view.scale(name), AutoScale) for name in view.deployments)


@recalled
def heed(view: ServiceView) -> tuple[HeedWish, ...]:
    """Return the change of what is gone by that is due now."""
    if PolicyKind.PLACEMENT not in others(view.spec):
        return (HeedWish(service=view.name, placing=None),) if view.memory.placing is not None else ()
    known = followed(view)
    match advised(view, PolicyKind.PLACEMENT):
        case Apportion() as wish:
            return _taken_up(view, known, wish)
        case Stand():
            return _heard(view, known)
        case Trouble():
            return _missed(view, known)
        case _:
            return ()


def _taken_up(view: ServiceView, known: Placing | None, wish: Apportion) -> tuple[HeedWish, ...]:
    until = waits_until(view, wish)
    if until is None or view.now < until:
        return _heard(view, known)
    placing = Placing(
        policy=view.spec.placement.policy,
        since=view.now,
        zones=wish.zones,
        on_demand=wish.on_demand,
        message=wish.message,
    )
    text = with_message(f"policy {placing.policy} wishes {in_words(placing)}", wish.message)
    return (HeedWish(service=view.name, placing=placing, message=text),)


def waits_until(view: ServiceView, wish: Apportion) -> datetime | None:
    """Return when a wish may be taken up, None when it is what is gone by already."""
    known = followed(view)
    if known is None:
        return view.now
    same = (known.zones, known.on_demand) == (wish.zones, wish.on_demand)
    return None if same else known.since + TAKEN_UP_AFTER


def _heard(view: ServiceView, known: Placing | None) -> tuple[HeedWish, ...]:
    if known is None or known.silent_since is None:
        return ()
    return (HeedWish(service=view.name, placing=replace(known, silent_since=None)),)


def _missed(view: ServiceView, known: Placing | None) -> tuple[HeedWish, ...]:
    """Go on for a while by what a policy said last, and then as if there were none."""
    if known is None:
        return ()
    if known.silent_since is None:
        return (HeedWish(service=view.name, placing=replace(known, silent_since=view.now)),)
    if view.now - known.silent_since < KEPT or not (known.zones or known.on_demand):
        return ()
    even = replace(known, since=view.now, zones={}, on_demand=0, message="")
    text = f"nothing of use comes from policy {known.policy} any more: replicas are spread as without it"
    return (HeedWish(service=view.name, placing=even, message=text),)


def in_words(wish: Placing | Apportion) -> str:
    """Return a wish in a few words."""
    parts = [f"{zone} {weight}" for zone, weight in sorted(wish.zones.items())]
    more = f" and {len(parts) - TOLD} more" if len(parts) > TOLD else ""
    text = f"zones {', '.join(parts[:TOLD])}{more}" if parts else "even zones"
    return f"{text}, {wish.on_demand}% on demand" if wish.on_demand else text


def avoided(view: ServiceView, zone: str) -> str:
    """Return who wishes that a zone has no replicas, and why; "" when nobody does."""
    placing = followed(view)
    if placing is None or zone_weights(view).get(zone) != 0:
        return ""
    return with_message(f"policy {placing.policy} avoids it", placing.message)
