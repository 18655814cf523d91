"""Which cells each revision is to have, and how many replicas in each: counts per service, spread over sites.

The counts are those of `capacity.goal_counts`, summed over sites; nothing here makes them more or fewer. The candidate
chooses first and the stable revision fills up around it, so that their sum is even at every step of a rollout. Who is
as well off where it is stays there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.registry import PLACEMENT
from policies.sites import open_sites
from policies.view import CellView, ServiceView
from policies.zones import Ground
from specs.desired import AutoScale, FixedScale
from specs.placement import ANYWHERE, MOST_SITES, Site, SiteState

Counts = Mapping[str, int]
"""Replicas per deployment."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Replicas per revision, site and deployment; a revision that is to have none has no sites."""

    sites: Mapping[str, Mapping[Site, Counts]]

    def of(self, revision: str | None) -> Mapping[Site, Counts]:
        """Return where a revision is to have cells, with their counts."""
        return self.sites.get(revision or "", {})

    def aim(self, cell: CellView, deployment: str) -> int:
        """Return how many replicas a cell is to have in the end."""
        return self.of(cell.line).get(cell.memory.key.site, {}).get(deployment, 0)

    def is_leaving(self, cell: CellView) -> bool:
        """Return whether a revision that stays is to have no cell any more where this one is."""
        sites = self.of(cell.line)
        return bool(sites) and cell.memory.key.site not in sites

    def missing(self, view: ServiceView, revision: str | None) -> tuple[Site, ...]:
        """Return the sites where a revision has no cell yet."""
        there = {cell.memory.key.site for cell in view.cells_of(revision)}
        return tuple(site for site in self.of(revision) if site not in there)


def make_layout(view: ServiceView, goals: Mapping[str, Mapping[str, int]]) -> Layout:
    """Return the layout for `goals`, replicas per deployment and revision."""
    sites: dict[str, Mapping[Site, Counts]] = {}
    load: dict[str, dict[str | None, int]] = {}
    first = [view.memory.candidate, *(out.revision for out in view.memory.outgoing)]
    for revision in dict.fromkeys([*(rev for rev in first if rev), view.memory.stable]):
        wanted = _wanted(view, revision, goals) if revision else {}
        if revision is None or not wanted:
            continue
        if min(wanted.values()) >= 1:
            sites[revision] = _placed(view, revision, wanted, load)
        elif _is_in_the_way(view, revision):
            sites[revision] = _last(view, revision)
        else:
            continue
        for site, counts in sites[revision].items():
            for name, count in counts.items():
                zones = load.setdefault(name, {})
                zones[site.zone] = zones.get(site.zone, 0) + count
    return Layout(sites=sites)


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
    cells = view.cells_of(revision)
    if len(cells) < 2 or all(cell.memory.is_externally_scaled for cell in cells):
        return False
    return any(view.room(name) < 1 for name in view.deployments_of(revision))


def _last(view: ServiceView, revision: str) -> Mapping[Site, Counts]:
    """Return the one cell that such a revision keeps: where it has most."""
    cell = max(view.cells_of(revision), key=lambda cell: (view.capacity(cell), cell.name))
    return {cell.memory.key.site: dict.fromkeys(cell.deployments, 1)}


def _placed(
    view: ServiceView, revision: str, wanted: Counts, load: Mapping[str, Mapping[str | None, int]]
) -> Mapping[Site, Counts]:
    sites = _chosen(view, revision, wanted, load)
    cells = {cell.memory.key.site: cell for cell in view.cells_of(revision)}
    placed: dict[Site, dict[str, int]] = {site: {} for site in sites}
    for name, count in wanted.items():
        own = {site: cells[site].followed(name) for site in sites if site in cells}
        ground = Ground(load=load.get(name, {}), caps=_caps(view, revision, name), own=own)
        for site, part in PLACEMENT["spread"](count, sites, ground).items():
            placed[site][name] = part
    return placed


def _chosen(
    view: ServiceView, revision: str, wanted: Counts, load: Mapping[str, Mapping[str | None, int]]
) -> tuple[Site, ...]:
    """Return the sites of a revision: as many as every deployment has a replica for.

    The candidate stays where it is and begins where the fewest replicas are; the stable revision goes where the
    candidate is not, and else stays where it is.
    """
    sites = _able(view, revision)
    own = {cell.memory.key.site for cell in view.cells_of(revision)}
    others = {site: sum(_held(view, revision, site, name) for name in wanted) for site in sites}
    loads = {site: sum(load.get(name, {}).get(site.zone, 0) for name in wanted) for site in sites}

    def place(site: Site) -> tuple[int, bool, int, str]:
        if revision == view.memory.candidate:
            return 0, site not in own, others[site], str(site)
        return loads[site], site not in own, 0, str(site)

    return tuple(sorted(sorted(sites, key=place)[: most_sites(view, revision, wanted)], key=str))


def _held(view: ServiceView, revision: str, site: Site, deployment: str) -> int:
    cells = (cell for cell in view.cells if cell.memory.key.site == site and cell.line != revision)
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
        texts[zone] = _REASONS.get(entry.state) or _too_small(view)
    return texts


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
