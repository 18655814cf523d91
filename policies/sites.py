"""Where cells may be: what the nodes say of each zone, believed with a delay so that nothing flaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from policies.recall import recalled
from policies.resources import free_resources, has_room, usable_nodes
from policies.view import CellView, ServiceView
from specs.observed import CellStatus, DeploymentSeen
from specs.placement import ANYWHERE, USABLE, Market, Site, SiteMemory, SiteState
from specs.selectors import matches

GONE_AFTER = timedelta(seconds=5)
"""A zone without a node is believed lost after this long: one missed look is no reason to build anew."""

BACK_AFTER = timedelta(seconds=30)
"""A zone that is back is used again after this long; each further loss doubles it."""

SPOT_AFTER = timedelta(minutes=2)
"""Spot nodes that are back, or have room again, are used after this long: what was just taken is often taken again."""

LONGEST_WAIT = timedelta(minutes=10)

CALM = timedelta(minutes=30)
"""After so long in one state earlier losses are forgotten."""

FORGOTTEN_AFTER = timedelta(hours=1)
"""A zone that was lost this long ago is no zone of this cluster any more: nothing is kept ready for it."""

FULL_FOR = timedelta(seconds=60)
"""A site that had no room is tried again after this long, when there seems to be some."""


def next_sites(view: ServiceView) -> tuple[SiteMemory, ...]:
    """Return what is to be believed of each site after this look."""
    if view.spec.placement.is_free:
        return ()
    nodes = _sites_of_nodes(view)
    known = {entry.site: entry for entry in view.memory.sites}
    every = sorted(nodes | known.keys(), key=str)
    entries = (_next(view, known.get(site), site, is_there=site in nodes) for site in every)
    return tuple(entry for entry in entries if not _is_forgotten(entry, view.now))


def _sites_of_nodes(view: ServiceView) -> set[Site]:
    """Return the sites that have a node which takes replicas."""
    found = (view.spec.placement.site_of(node.labels) for node in usable_nodes(view.observed))
    return {site for site in found if site is not None}


def _is_forgotten(entry: SiteMemory, now: datetime) -> bool:
    return entry.state is SiteState.GONE and now - entry.since >= FORGOTTEN_AFTER


def _next(view: ServiceView, entry: SiteMemory | None, site: Site, *, is_there: bool) -> SiteMemory:
    now = view.now
    if entry is None:
        # What is there when a service is first looked at needs no proof; what joins later may be flapping.
        first = is_there and not any(view.spec.placement.allows(known.site) for known in view.memory.sites)
        return SiteMemory(site=site, state=SiteState.OPEN if first else SiteState.GONE, since=now)
    if not view.spec.placement.allows(site):
        return replace(entry, state=SiteState.GONE, since=now - FORGOTTEN_AFTER)
    if is_there == (entry.state is not SiteState.GONE):
        entry = replace(entry, contrary_since=None)
        calm = entry.closures and entry.state is SiteState.OPEN and now - entry.since >= CALM
        entry = replace(entry, closures=0) if calm else entry
        return _next_room(view, entry) if is_there else entry
    since = min(entry.contrary_since or now, now)
    if now - since < _doubt(entry, is_there=is_there):
        return replace(entry, contrary_since=since)
    if is_there:
        return SiteMemory(site=site, state=SiteState.OPEN, since=now, closures=entry.closures)
    return SiteMemory(site=site, state=SiteState.GONE, since=now, closures=entry.closures + 1)


def _doubt(entry: SiteMemory, *, is_there: bool) -> timedelta:
    """Return for how long the nodes must say otherwise before it is believed."""
    return _patience(_back_after(entry.site), entry.closures) if is_there else GONE_AFTER


def next_belief(view: ServiceView) -> datetime | None:
    """Return when time alone changes what is believed of a site next, as far as that can be told; else None."""
    ends = []
    for entry in view.memory.sites:
        if entry.contrary_since is not None:
            ends.append(entry.contrary_since + _doubt(entry, is_there=entry.state is SiteState.GONE))
        elif entry.state in (SiteState.FULL, SiteState.FAILED):
            ends.append(entry.since + _patience(_full_for(entry.site), entry.closures))
    return min((at for at in ends if at > view.now), default=None)


def _full_for(site: Site) -> timedelta:
    return SPOT_AFTER if site.market is Market.SPOT else FULL_FOR


def _back_after(site: Site) -> timedelta:
    return SPOT_AFTER if site.market is Market.SPOT else BACK_AFTER


def _patience(first: timedelta, closures: int) -> timedelta:
    return min(LONGEST_WAIT, first * float(2 ** min(10, max(0, closures - 1))))


def _next_room(view: ServiceView, entry: SiteMemory) -> SiteMemory:
    """Note that a site is full, by Serve's own word, or that there is room again, by arithmetic."""
    cells = [cell for cell in view.cells if cell.memory.key.site == entry.site and not cell.memory.is_retired]
    deployments = [seen for cell in cells for seen in _deployments(cell)]
    stuck = any(_is_stuck(seen) or _is_squeezed_out(view, seen) for seen in deployments)
    if entry.state is SiteState.OPEN:
        if any(_has_failed(view, cell) for cell in cells):
            return _closed(view, entry, SiteState.FAILED)
        return _closed(view, entry, SiteState.FULL) if stuck else entry
    wait = _patience(_full_for(entry.site), entry.closures)
    if stuck or view.now - entry.since < wait or not _has_room(view, entry.site):
        return entry
    return SiteMemory(site=entry.site, state=SiteState.OPEN, since=view.now, closures=entry.closures)


def _closed(view: ServiceView, entry: SiteMemory, state: SiteState) -> SiteMemory:
    placed = placed_at(view, entry.site) if state is SiteState.FULL else {}
    return SiteMemory(site=entry.site, state=state, since=view.now, closures=entry.closures + 1, placed=placed)


def placed_at(view: ServiceView, site: Site) -> Mapping[str, int]:
    """Return the replicas per deployment that have a node at a site, and keep it, over all revisions."""
    placed: dict[str, int] = {}
    nodes = {node.id for node in usable_nodes(view.observed)}
    for cell in view.cells:
        for seen in _deployments(cell) if cell.memory.key.site == site else ():
            placed[seen.name] = placed.get(seen.name, 0) + sum(1 for replica in seen.replicas if replica.node in nodes)
    return placed


def _deployments(cell: CellView) -> Iterable[DeploymentSeen]:
    return cell.seen.deployments if cell.seen is not None else ()


def _is_stuck(seen: DeploymentSeen) -> bool:
    return seen.is_unplaced and any(replica.is_homeless for replica in seen.replicas)


def _is_squeezed_out(view: ServiceView, seen: DeploymentSeen) -> bool:
    """Return whether what is about to lose its node finds no room: Serve says so in half a minute, which is late."""
    left = {node.id for node in view.observed.nodes if node.preemption is not None}
    if not any(replica.node in left for replica in seen.replicas):
        return False
    free = free_resources(view.observed)
    nodes = (node for node in usable_nodes(view.observed) if matches(node.labels, seen.selector))
    waits = any(replica.is_homeless for replica in seen.replicas)
    return waits and not any(has_room(seen.needs, free[node.id]) for node in nodes)


def _has_failed(view: ServiceView, cell: CellView) -> bool:
    """Return whether a cell of the stable revision, which is good elsewhere, does not even start here."""
    if cell.revision != view.memory.stable or cell.seen is None or cell.memory.was_ready:
        return False
    broken = any(seen.status == "DEPLOY_FAILED" for seen in cell.seen.deployments)
    return broken or cell.seen.status is CellStatus.DEPLOY_FAILED


def _has_room(view: ServiceView, site: Site) -> bool:
    """Return whether some node of a site has room for a replica of each deployment, one at a time."""
    free = free_resources(view.observed)
    nodes = [node for node in usable_nodes(view.observed) if matches(node.labels, site.selector)]
    needs = {seen.name: seen.needs for cell in view.cells for seen in _deployments(cell)}
    return bool(nodes) and all(any(has_room(need, free[node.id]) for node in nodes) for need in needs.values())


def is_believed(view: ServiceView) -> bool:
    """Return whether what is believed of the sites is what the nodes say now: else replicas are about to move."""
    there = _sites_of_nodes(view)
    known = {entry.site: entry.state is not SiteState.GONE for entry in view.memory.sites}
    return there <= known.keys() and all((site in there) == is_there for site, is_there in known.items())


@recalled
def open_sites(view: ServiceView) -> tuple[Site, ...]:
    """Return the sites where cells may be; full ones belong to them, for what is there stays there."""
    if view.spec.placement.is_free:
        return (ANYWHERE,)
    return tuple(entry.site for entry in view.memory.sites if entry.state in USABLE)


@recalled
def too_few_zones(view: ServiceView) -> str:
    """Return why a service has fewer usable zones than its spec wants at least; "" when it has enough."""
    zones = view.spec.placement.zones
    usable = sorted({site.zone for site in open_sites(view) if site.zone})
    if zones is None or len(usable) >= zones.min:
        return ""
    named = ", ".join(usable) or "none"
    return f"placement.zones.min is {zones.min}, and usable are {named}{_closed_zones(view)}"


def _closed_zones(view: ServiceView) -> str:
    closed = [f"{entry.site} {entry.state}" for entry in view.memory.sites if entry.site not in open_sites(view)]
    return f" ({', '.join(closed)})" if closed else ""
