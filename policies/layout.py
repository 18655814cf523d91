"""Which cells each revision is to have, and how many replicas in each: counts per service, spread over sites.

The counts are those of `capacity.goal_counts`, summed over sites; nothing here makes them more or fewer. The candidate
chooses first, and from its first cell on the stable revision fills up around it, so that their sum is even at every
step of a rollout. Who is as well off where it is stays there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from policies.baseline import fresh_line
from policies.markets import Plot, on_demand
from policies.placing import avoided, zone_weights
from policies.placing import on_demand as least_on_demand
from policies.registry import PLACEMENT
from policies.sites import open_sites
from policies.traffic import routed_outgoing
from policies.view import CellView, ServiceView
from policies.zones import Ground, apportion, weighed
from specs.desired import AutoScale, FixedScale
from specs.placement import ANYWHERE, MOST_SITES, Market, Site, SiteState

Counts = Mapping[str, int]
"""Replicas per deployment."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Replicas per revision, site and deployment; a revision that is to have none has no sites.

    Such a one keeps its cells, without replicas where that can be, but for the revision `going`, which is to have none.
    """

    sites: Mapping[str, Mapping[Site, Counts]]
    going: str | None = None

    def of(self, revision: str | None) -> Mapping[Site, Counts]:
        """Return where a revision is to have cells, with their counts."""
        return self.sites.get(revision or "", {})

    def aim(self, cell: CellView, deployment: str) -> int:
        """Return how many replicas a cell is to have in the end."""
        return self.of(cell.line).get(cell.memory.key.site, {}).get(deployment, 0)

    def is_leaving(self, cell: CellView) -> bool:
        """Return whether there is to be no cell any more where this one is."""
        sites = self.of(cell.line)
        return cell.line == self.going or (bool(sites) and cell.memory.key.site not in sites)

    def at(self, market: Market) -> int:
        """Return how many replicas are to be in a market, over all revisions and deployments."""
        sites = (pair for sites in self.sites.values() for pair in sites.items())
        return sum(sum(counts.values()) for site, counts in sites if site.market is market)

    def missing(self, view: ServiceView, revision: str | None) -> tuple[Site, ...]:
        """Return the sites where a revision has no cell yet."""
        there = {cell.memory.key.site for cell in view.cells_of(revision)}
        return tuple(site for site in self.of(revision) if site not in there)


def make_layout(view: ServiceView, goals: Mapping[str, Mapping[str, int]]) -> Layout:
    """Return the layout for `goals`, replicas per deployment and revision."""
    sites: dict[str, Mapping[Site, Counts]] = {}
    laid, going = _Laid(), None
    first = [view.memory.candidate, *(out.revision for out in view.memory.outgoing)]
    for revision in dict.fromkeys([*(rev for rev in first if rev), view.memory.stable]):
        wanted = _wanted(view, revision, goals) if revision else {}
        if revision is None or not wanted:
            continue
        if min(wanted.values()) >= 1:
            sites[revision] = _placed(view, revision, wanted, laid)
        elif _is_in_the_way(view, revision):
            sites[revision] = _last(view, revision)
        else:
            going = revision if _keeps_others_out(view, revision, wanted) else going
            continue
        if _is_begun(view, revision):
            laid.add(sites[revision])
        line = fresh_line(view) if revision == view.memory.candidate else None
        beside = _beside(view, line, sites[revision], goals) if line is not None else {}
        if line is not None and beside:
            sites[line] = beside
            laid.add(beside)
    return Layout(sites=sites, going=going)


def _is_begun(view: ServiceView, revision: str) -> bool:
    """Return whether others are to be laid around a revision: not around a candidate that has no cell yet.

    Where it has to wait the stable revision would go another way with it than without it: a cell that it makes to be
    out of the candidate's way takes the room, and is taken back for that, for ever.
    """
    return revision != view.memory.candidate or bool(view.cells_of(revision))


def _beside(
    view: ServiceView, line: str, candidate: Mapping[Site, Counts], goals: Mapping[str, Mapping[str, int]]
) -> Mapping[Site, Counts]:
    """Return a baseline's replicas per site: where the candidate's are, as many of those as it has replicas for.

    Places differ (in hardware, in their distance to what a replica calls), and that is no difference of revisions.
    """
    wanted = {name: goals[name].get(line, 0) for name in sorted(view.deployments_of(line)) if name in goals}
    if not wanted or min(wanted.values()) < 1:
        return {}
    own = {cell.memory.key.site for cell in view.cells_of(line)}
    order = sorted(candidate, key=lambda site: (site not in own, -sum(candidate[site].values()), str(site)))
    chosen = sorted(order[: most_sites(view, view.memory.stable or "", wanted)], key=str)
    parts = {
        name: apportion(count - len(chosen), {site: max(0, candidate[site].get(name, 1) - 1) for site in chosen})
        for name, count in wanted.items()
    }
    return {site: {name: 1 + parts[name][site] for name in wanted} for site in chosen}


@dataclass(kw_only=True)
class _Laid:
    """What the revisions that chose before are to have: per deployment and zone, and on demand."""

    zones: dict[str, Counter[str | None]] = field(default_factory=dict)
    on_demand: Counter[str] = field(default_factory=Counter)

    def add(self, sites: Mapping[Site, Counts]) -> None:
        for site, counts in sites.items():
            for name, count in counts.items():
                self.zones.setdefault(name, Counter())[site.zone] += count
                self.on_demand[name] += count if site.market is Market.ON_DEMAND else 0


def _wanted(view: ServiceView, revision: str, goals: Mapping[str, Mapping[str, int]]) -> Counts:
    """Return what a revision is to have of each of its deployments."""
    record = view.memory.revision(revision)
    listed = {one.name for one in record.deployments if one.scale is not None} if record else set()
    names = view.deployments_of(revision) | listed
    return {name: goals[name].get(revision, 0) for name in sorted(names) if name in goals}


def _is_in_the_way(view: ServiceView, revision: str) -> bool:
    """Return whether a revision that is to have nothing holds room that others need, by its many cells alone.

    Autoscaled cells cannot be scaled to nothing: each of them keeps a replica until it goes.
    """
    return len(view.cells_of(revision)) > 1 and _holds_room(view, revision)


def _holds_room(view: ServiceView, revision: str) -> bool:
    """Return whether cells that cannot be scaled to nothing hold replicas of which there is room for no more."""
    if all(cell.memory.is_externally_scaled for cell in view.cells_of(revision)):
        return False
    return any(view.room(name) < 1 for name in view.deployments_of(revision))


def _keeps_others_out(view: ServiceView, revision: str, wanted: Counts) -> bool:
    """Return whether a stable revision that lost all its requests holds the room that the candidate needs to go on.

    Beside what is on its way out and has requests yet there is no room for the last replica of an autoscaled cell.
    """
    if revision != view.memory.stable or any(wanted.values()) or view.has_requests(revision):
        return False
    is_begun = bool(view.cells_of(view.memory.candidate))
    return is_begun and _holds_room(view, revision) and bool(routed_outgoing(view))


def _last(view: ServiceView, revision: str) -> Mapping[Site, Counts]:
    """Return the one cell that such a revision keeps: where it has most."""
    cell = max(view.cells_of(revision), key=lambda cell: (view.capacity(cell), cell.name))
    return {cell.memory.key.site: dict.fromkeys(cell.deployments, 1)}


def _placed(view: ServiceView, revision: str, wanted: Counts, laid: _Laid) -> Mapping[Site, Counts]:
    """Return a revision's replicas per site: even over the zones, and in each of them by market."""
    zones = _by_zone(_able(view, revision))
    own = {(cell.memory.key.zone, name): 0 for cell in view.cells_of(revision) for name in wanted}
    for cell in view.cells_of(revision):
        for name in wanted:
            own[cell.memory.key.zone, name] += cell.followed(name)
    totals: dict[Site, dict[str, int]] = {zone: {} for zone in _chosen(view, revision, wanted, laid.zones)}
    weights = zone_weights(view)
    for name, count in wanted.items():
        held = {zone: own[zone.zone, name] for zone in totals if (zone.zone, name) in own}
        caps = _zone_caps(_caps(view, revision, name), zones)
        ground = Ground(load=laid.zones.get(name, {}), caps=caps, own=held, weights=weights)
        for zone, part in PLACEMENT["spread"](count, list(totals), ground).items():
            totals[zone][name] = part
    if view.spec.placement.market is None:
        return {zones[zone][0]: counts for zone, counts in totals.items()}
    return _by_market(view, revision, {zone: (counts, zones[zone]) for zone, counts in totals.items()}, laid)


def _by_zone(sites: Iterable[Site]) -> Mapping[Site, Sequence[Site]]:
    """Return the sites of each zone."""
    zones: dict[Site, list[Site]] = {}
    for site in sites:
        zones.setdefault(Site(zone=site.zone), []).append(site)
    return zones


def _zone_caps(caps: Mapping[Site, int], zones: Mapping[Site, Sequence[Site]]) -> Mapping[Site, int]:
    """Return the most that a zone is asked for in which no market has room."""
    full = {zone: sites for zone, sites in zones.items() if all(site in caps for site in sites)}
    return {zone: sum(caps[site] for site in sites) for zone, sites in full.items()}


def _by_market(
    view: ServiceView, revision: str, zones: Mapping[Site, tuple[Counts, Sequence[Site]]], laid: _Laid
) -> Mapping[Site, Counts]:
    """Divide what each zone has between its markets."""
    there = {cell.memory.key.site for cell in view.cells_of(revision)}
    wanted = {name: sum(counts[name] for counts, _ in zones.values()) for name in next(iter(zones.values()))[0]}
    caps = {name: _caps(view, revision, name) for name in wanted}
    plots, placed = {}, dict[Site, Counts]()
    for zone, (counts, sites) in zones.items():
        markets = {site.market: site for site in sites if site.market is not None}
        if not markets:
            placed[sites[0]] = counts
            continue
        plots[zone] = Plot(
            name=str(zone),
            total=counts,
            markets=frozenset(markets),
            caps={
                market: {name: caps[name][site] for name in wanted}
                for market, site in markets.items()
                if all(site in caps[name] for name in wanted)
            },
            rank=0 if markets.get(Market.ON_DEMAND) in there else 1,
        )
    parts = on_demand(
        list(plots.values()), base_of(view, revision, wanted, laid.on_demand), most_sites(view, revision, wanted)
    )
    for zone, plot in plots.items():
        part = parts[plot.name]
        rest = {name: count - part[name] for name, count in plot.total.items()}
        for market, counts in ((Market.ON_DEMAND, part), (Market.SPOT, rest)):
            if any(counts.values()):
                placed[Site(zone=zone.zone, market=market)] = counts
    return placed


def base_of(view: ServiceView, revision: str, wanted: Counts, others: Counts) -> Counts:
    """Return how many of a revision's replicas are to be on demand at least; `others` are those of other revisions.

    The base is the service's. A candidate has its part of it, so that it is compared with what is paid for alike.
    """
    market = view.spec.placement.market
    if market is None or market.prefer is Market.ON_DEMAND:
        return wanted
    base = {}
    for name, count in wanted.items():
        target = view.budget(name).target
        whole = least_on_demand(view, target)
        part = whole * count // target if revision != view.memory.stable else whole - others.get(name, 0)
        base[name] = min(count, max(0, part))
    return base


def _chosen(
    view: ServiceView, revision: str, wanted: Counts, load: Mapping[str, Mapping[str | None, int]]
) -> tuple[Site, ...]:
    """Return the zones of a revision: as many as every deployment has a replica for.

    The candidate stays where it is and begins where the fewest replicas are; the stable revision goes where the
    candidate is not, and else stays where it is. What a wish avoids comes last.
    """
    weights = zone_weights(view)
    zones = _by_zone(_able(view, revision))
    own = {cell.memory.key.zone for cell in view.cells_of(revision)}
    others = {zone: sum(_held(view, revision, zone, name) for name in wanted) for zone in zones}
    loads = {zone: sum(load.get(name, {}).get(zone.zone, 0) for name in wanted) for zone in zones}

    def place(zone: Site) -> tuple[bool, float, bool, float, str]:
        weight = weights.get(zone.zone or "", 1)
        if revision == view.memory.candidate:
            is_avoided, fullness = weighed(others[zone], weight)
            return is_avoided, 0, zone.zone not in own, fullness, str(zone)
        return *weighed(loads[zone], weight), zone.zone not in own, 0, str(zone)

    return tuple(sorted(_in_use(view, revision, wanted, sorted(zones, key=place)), key=str))


def _in_use(view: ServiceView, revision: str, wanted: Counts, ranked: Sequence[Site]) -> Sequence[Site]:
    """Return the first of the zones: without those that a wish avoids, if the others are enough, and have room."""
    zones, weights = view.spec.placement.zones, zone_weights(view)
    most = min(len(ranked), most_sites(view, revision, wanted))
    least = min(most, zones.min if zones is not None else 1)
    # Who avoids all that there is avoids nothing.
    count = max(least, min(most, sum(1 for zone in ranked if weights.get(zone.zone or "", 1)) or most))
    while count < most and _is_short(view, revision, wanted, ranked[:count]):
        count += 1
    return ranked[:count]


def _is_short(view: ServiceView, revision: str, wanted: Counts, chosen: Sequence[Site]) -> bool:
    """Return whether zones are all full and hold too few of some deployment."""
    zones = _by_zone(_able(view, revision))
    for name, count in wanted.items():
        caps = _zone_caps(_caps(view, revision, name), zones)
        if all(zone in caps for zone in chosen) and sum(caps[zone] for zone in chosen) < count:
            return True
    return False


def _held(view: ServiceView, revision: str, site: Site, deployment: str) -> int:
    """Return what others have at a site, or in a zone as a whole."""
    places = {cell.name: cell.memory.key.site for cell in view.cells if cell.line != revision}
    held = {name for name, at in places.items() if site in (at, Site(zone=at.zone))}
    cells = (cell for cell in view.cells if cell.name in held)
    return sum(cell.projected(deployment) for cell in cells)


def _able(view: ServiceView, revision: str) -> list[Site]:
    """Return the sites that a revision may use; where there is no room it keeps what it has."""
    sites = open_sites(view)
    full = {entry.site: entry for entry in view.memory.sites if entry.state is SiteState.FULL}
    own = {cell.memory.key.site for cell in view.cells_of(revision) if cell.answers}
    able = [site for site in sites if site not in full or site in own]
    # With nowhere to go everything stays where it is, and waits.
    there = [cell.memory.key.site for cell in view.cells_of(revision)]
    return able or list(dict.fromkeys(there)) or list(sites) or [ANYWHERE]


def most_sites(view: ServiceView, revision: str, wanted: Counts) -> int:
    """Return how many cells a revision can have: each needs one replica of every deployment.

    Deployments that the spec does not list come with every cell in the count of the code: they are not multiplied.
    """
    record = view.memory.revision(revision)
    unlisted = [name for name in wanted if record is None or record.scale(name) is None]
    if unlisted:
        return 1
    lows = (scale.min_replicas for name in wanted if isinstance(scale := view.scale(name), AutoScale))
    return max(1, min([MOST_SITES, *wanted.values(), *lows]))


def _caps(view: ServiceView, revision: str, deployment: str) -> Mapping[Site, int]:
    """Return the most that a full site is asked for: what is placed there already, others' part aside."""
    caps = {}
    for entry in view.memory.sites:
        if entry.state is SiteState.FULL:
            others = _held(view, revision, entry.site, deployment)
            caps[entry.site] = max(1, entry.placed.get(deployment, 0) - others)
    return caps


def unplaced(view: ServiceView, layout: Layout) -> tuple[str, ...]:
    """Return where the stable revision has other counts than it is to have, in words; () when all is in its place."""
    stable = view.memory.stable
    texts = [f"{site} has no cell yet" for site in layout.missing(view, stable)] if stable else []
    for cell in view.cells_of(stable):
        site = cell.memory.key.site
        if layout.is_leaving(cell):
            texts.append(f"{site} is left")
            continue
        fixed = (name for name in sorted(cell.deployments) if isinstance(view.scale(name), FixedScale))
        wrong = (name for name in fixed if layout.of(stable) and cell.followed(name) != layout.aim(cell, name))
        texts += [f"{site} has {cell.followed(name)} {name} of {layout.aim(cell, name)}" for name in wrong]
    return tuple(texts)


def why_unused(view: ServiceView, layout: Layout) -> Mapping[str, str]:
    """Return why zones that the spec allows have no replica of the service, by zone."""
    used = {cell.memory.key.zone for cell in view.cells if not cell.memory.is_retired}
    used |= {site.zone for sites in layout.sites.values() for site in sites}
    texts = {}
    for entry in view.memory.sites:
        zone = entry.site.zone
        if zone is None or zone in used:
            continue
        texts[zone] = _REASONS.get(entry.state) or avoided(view, zone) or _too_small(view)
    return texts


def why_not_preferred(view: ServiceView, layout: Layout) -> Mapping[Market, str]:
    """Return per market why fewer of the stable revision's replicas are to be there than the spec asks for."""
    market, sites = view.spec.placement.market, layout.of(view.memory.stable)
    if market is None or not sites:
        return {}
    have: Counter[Market] = Counter()
    asked: Counter[Market] = Counter()
    totals: Counter[str] = Counter()
    for site, counts in sites.items():
        totals.update(counts)
        if site.market is not None:
            have[site.market] += sum(counts.values())
    for total in totals.values():
        stays = total if market.prefer is Market.ON_DEMAND else least_on_demand(view, total)
        asked.update({Market.ON_DEMAND: stays, Market.SPOT: total - stays})
    return {one: _short(view, one, asked[one], have[one]) for one in Market if have[one] < asked[one]}


def _short(view: ServiceView, market: Market, asked: int, have: int) -> str:
    entries = [entry for entry in view.memory.sites if entry.site.market is market]
    closed = {str(entry.site): _REASONS[entry.state] for entry in entries if entry.state is not SiteState.OPEN}
    text = "; ".join(f"{site}: {why}" for site, why in sorted(closed.items()))
    if not entries:
        text = f"no node of the cluster is {market}"
    return f"{have} of {asked} replicas: {text or 'a cell needs one replica of each deployment'}"


_REASONS = {
    SiteState.GONE: "no node there takes replicas, or not for long enough yet",
    SiteState.FULL: "its nodes have no room",
    SiteState.FAILED: "the stable revision did not start there",
}


def _too_small(view: ServiceView) -> str:
    names = view.deployments
    sizes = {name: view.budget(name).target for name in names}
    unlisted = [name for name in names if view.scale(name) is None]
    if unlisted:
        return f"{', '.join(unlisted)} is not listed in the spec, so its replicas cannot be divided"
    least = min(sizes, key=lambda name: (sizes[name], name)) if sizes else ""
    if sizes and sizes[least] < MOST_SITES:
        return f"{least} has {sizes[least]} replica(s), and each zone needs one"
    return f"one revision has at most {MOST_SITES} cells"
