"""What the status says of another package's placement policy: what it wishes, and what of it is gone by."""

from __future__ import annotations

from datetime import timedelta

from policies.counsel import Trouble, advised
from policies.placing import KEPT, followed, in_words, is_autoscaled, needs_even_zones, waits_until
from policies.recall import recalled
from policies.registry import others
from policies.view import ServiceView
from specs.placement import Placing
from specs.status import PlacingStatus
from specs.wishes import Apportion, PolicyKind, Stand


@recalled
def placing_status(view: ServiceView) -> PlacingStatus | None:
    """Return what is wished and followed, None for a service that names no policy of another package."""
    if PolicyKind.PLACEMENT not in others(view.spec):
        return None
    policy, placing = view.spec.placement.policy, followed(view)
    note = "; ".join(part for part in (_said(view, placing), _ignored(view, placing)) if part)
    if placing is None:
        return PlacingStatus(policy=policy, note=note)
    return PlacingStatus(
        policy=policy,
        zones=placing.zones,
        on_demand=placing.on_demand,
        since=placing.since,
        message=placing.message,
        note=note,
    )


def _said(view: ServiceView, placing: Placing | None) -> str:
    """Return what is said now, where that is not what is gone by."""
    match advised(view, PolicyKind.PLACEMENT):
        case Apportion() as wish if (until := waits_until(view, wish)) is not None and until > view.now:
            return f"it wishes {in_words(wish)} by now, which is taken up at {until:%H:%M:%S} UTC if it still does"
        case Stand(message=message):
            return message if placing is not None else message or "it wishes nothing"
        case Trouble(message=message):
            return f"{message}; {_kept(view, placing)}"
        case _:
            return ""


def _kept(view: ServiceView, placing: Placing | None) -> str:
    if placing is None or placing.silent_since is None or not (placing.zones or placing.on_demand):
        return "replicas are spread as without it"
    left = max(timedelta(0), placing.silent_since + KEPT - view.now)
    return f"what it wished last is kept for {left.total_seconds():.0f} s"


def _ignored(view: ServiceView, placing: Placing | None) -> str:
    """Return which part of a wish the spec, or how it is scaled, leaves no room for."""
    if placing is None:
        return ""
    if placing.zones and needs_even_zones(view):
        return "its zones are not followed: zoneFailure tolerate needs them even"
    if placing.on_demand and view.spec.placement.market is None:
        return "its onDemand is not followed: the spec has no placement.market"
    if placing.on_demand and is_autoscaled(view):
        return "its onDemand is not followed: a share of what scales is no base"
    return ""
