"""From a Plan to Effects: the difference between what Memory says and what was observed.

Effects are derived from state: an effect that failed, or that a crash cut off after its intent was saved, is
derived again at the next look. Counts are the exception: a growth or a shrink is done only when this very look
decided it, by what it saw.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from policies.drift import is_entry_left
from policies.once import once
from reconciler.planning.compose import is_other, with_counts
from reconciler.planning.outgoing import consultations_due, measurements_due, questions_due, staging_due
from reconciler.planning.plan import Plan
from reconciler.planning.routing import is_routed, route_table
from specs.cells import CellKey
from specs.decisions import SetCapacity
from specs.desired import PackageRef
from specs.effects import (
    Effect,
    PutServeConfig,
    SaveMemory,
    ScaleDeployment,
    ServeApplication,
    SetRoutes,
    UploadPackage,
)
from specs.memory import CellMemory, Memory, ServiceMemory
from specs.observed import CellSeen, CellStatus, Observed
from specs.routes import RouteTable
from specs.serve_document import check_document, unknown_fields

LONGEST_BUILD = timedelta(minutes=10)
"""A build that takes longer is not waited for: one that no node fits (ours under a pause, or foreign) never
ends, and nobody else could ever move."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The effects in the order in which they are to be applied.

    `waiting` says why a PUT is put off ("" if not); `invalid` what Serve would refuse, by service.
    """

    effects: tuple[Effect, ...]
    memory: Memory
    waiting: str = ""
    invalid: Mapping[str, str] = field(default_factory=dict)


def compile_effects(plan: Plan, before: Memory, routed: RouteTable | None) -> Compiled:
    """Return the effects that make the world follow Memory, the saving of Memory first.

    `before` is Memory as it is saved now, `routed` the table that the gateway took last (None: not known).
    Without a complete observation only Memory is saved.
    """
    observed = plan.world.observed
    if not observed.complete:
        return Compiled(effects=_saved(plan, before, plan.memory), memory=plan.memory)
    due = _due(plan, observed)
    invalid = _invalid(due, observed)
    put, waiting = _put(plan, observed, [cell for cell in due if cell.key.name not in invalid], invalid)
    memory = _with_restarted_builds(plan, observed) if put is not None else plan.memory
    effects = (
        *_saved(plan, before, memory),
        *_routes(plan, observed, routed),
        *_uploads(plan, observed, put),
        *_scales(plan, observed),
        *((put,) if put is not None else ()),
        *questions_due(plan),
        *measurements_due(plan),
        *consultations_due(plan),
        *staging_due(plan),
    )
    return Compiled(effects=effects, memory=memory, waiting=waiting, invalid=_by_service(plan, invalid))


def _saved(plan: Plan, before: Memory, after: Memory) -> tuple[SaveMemory, ...]:
    known = before.services
    different = ((name, service) for name, service in sorted(after.services.items()) if known.get(name) is not service)
    changed = tuple(service for name, service in different if known.get(name) != service)
    forgotten = tuple(sorted(before.services.keys() - after.services.keys()))
    if not changed and not forgotten and not plan.events and not plan.history:
        return ()
    return (SaveMemory(services=changed, forgotten=forgotten, events=plan.events, history=plan.history),)


def _routes(plan: Plan, observed: Observed, routed: RouteTable | None) -> tuple[SetRoutes, ...]:
    """Route when the gateway took another table, or shows other weights.

    It does not show public routes, nor rows that are to go: hence the comparison with what it took.
    """
    table = route_table(plan.memory)
    if observed.gateway is not None and table == routed and is_routed(table, observed.gateway):
        return ()
    return (SetRoutes(table=table),)


@once
def _live(plan: Plan) -> tuple[tuple[ServiceMemory, CellMemory], ...]:
    """Return every cell with its service, and with the counts that are to be done now."""
    return tuple(found for name in sorted(plan.memory.services) for found in _live_of(plan, name))


def _live_of(plan: Plan, name: str) -> Iterable[tuple[ServiceMemory, CellMemory]]:
    service = plan.memory.services[name]
    said = {
        (decision.cell, decision.deployment)
        for decision in plan.decisions.get(name, ())
        if isinstance(decision, SetCapacity)
    }
    for cell in service.cells:
        yield service, _as_said(cell, plan.world.observed.cell(cell.key.name), said)


def _as_said(cell: CellMemory, seen: CellSeen | None, said: set[tuple[CellKey, str]]) -> CellMemory:
    """Return a cell with the counts that this look decided, and elsewhere those that Serve has.

    A count that was commanded at an earlier look and never reached Serve may be wrong by now.
    """
    if seen is None or not _is_present(seen):
        return cell  # To be put back as it was.
    unsaid = {
        found.name: found.target
        for found in seen.deployments
        if cell.counts.get(found.name, found.target) != found.target and (cell.key, found.name) not in said
    }
    return replace(cell, counts={**cell.counts, **unsaid}) if unsaid else cell


def _scales(plan: Plan, observed: Observed) -> tuple[ScaleDeployment, ...]:
    """Scale what Serve shows with another target; who built or restores a cell writes its counts in the PUT."""
    scales = []
    for service, cell in _live(plan):
        seen = observed.cell(cell.key.name)
        if seen is None or not _is_scalable(cell, seen) or not _heals(plan, service):
            continue
        for deployment in seen.deployments:
            target = cell.counts.get(deployment.name, deployment.target)
            if target != deployment.target:
                name = cell.key.name
                scales.append(
                    ScaleDeployment(service=service.name, application=name, deployment=deployment.name, target=target)
                )
    return tuple(scales)


def _is_scalable(cell: CellMemory, seen: CellSeen) -> bool:
    return cell.is_externally_scaled and not cell.is_retired and _is_present(seen)


def _heals(plan: Plan, service: ServiceMemory) -> bool:
    """With selfHeal off only what a rollout or a spec change moves is commanded, nothing put right on top."""
    desired = plan.world.desired
    if desired is None or desired.settings.self_heal:
        return True
    was = plan.world.memory.services.get(service.name)
    moving = service.is_moving or service.is_removed
    return moving or was is None or was.cells != service.cells


def _due(plan: Plan, observed: Observed) -> list[CellMemory]:
    """Return the cells that Serve's document lacks or has otherwise."""
    return [
        cell
        for service, cell in _live(plan)
        if not cell.is_retired and _needs_put(plan, service, cell, observed.cell(cell.key.name))
    ]


def _invalid(due: list[CellMemory], observed: Observed) -> Mapping[str, str]:
    """Return what is wrong with entries that are due, by cell: one of them must not keep all from moving."""
    found = {}
    for cell in due:
        config = with_counts(cell, observed.cell(cell.key.name))
        entry = json.loads(config)
        problems = [*check_document({"applications": [entry]}), *unknown_fields(entry)]
        if config in observed.refused:
            problems.append(observed.refused[config])
        if problems:
            found[cell.key.name] = "; ".join(problems)
    return found


def _by_service(plan: Plan, invalid: Mapping[str, str]) -> Mapping[str, str]:
    return {service.name: invalid[cell.key.name] for service, cell in _live(plan) if cell.key.name in invalid}


def _put(
    plan: Plan, observed: Observed, due: list[CellMemory], invalid: Mapping[str, str]
) -> tuple[PutServeConfig | None, str]:
    """Return the one PUT that creates, retires and adjusts what cannot be scaled, or why it has to wait.

    Entries that Serve would refuse stay as they are there, or away.
    """
    live = [(service, cell) for service, cell in _live(plan) if not cell.is_retired]
    retired = [(service, cell) for service, cell in _live(plan) if cell.is_retired]
    removed = frozenset(cell.key.name for _, cell in retired)
    leaving = [cell for _, cell in retired if _is_present(observed.cell(cell.key.name))]
    if not due and not leaving:
        return None, ""
    building = [cell for cell in observed.cells if cell.is_building and cell.name not in removed]
    awaited = sorted(cell.name for cell in building if not _is_overdue(cell, observed))
    urgent = any(cell.is_urgent for cell in leaving) or _restores(plan, due)
    if awaited and not urgent:
        return None, f"{', '.join(awaited)} is being built; a change of Serve's document now would start it anew"
    applications = tuple(
        ServeApplication(name=cell.key.name, config=config)
        for _, cell in live
        if _is_declared(plan, cell, observed)
        and (config := _entry(cell, observed, invalid, plan.world.now)) is not None
    )
    return PutServeConfig(applications=applications, removed=removed, may_cut_builds=bool(building)), ""


def _entry(cell: CellMemory, observed: Observed, invalid: Mapping[str, str], now: datetime) -> str | None:
    """Return a cell's entry; of one that Serve would refuse, what Serve has of it already (None: nothing).

    One that is left to another writer for a while stays as that one wrote it.
    """
    seen = observed.cell(cell.key.name)
    if seen is not None and _is_present(seen) and seen.config is not None and is_entry_left(cell, now):
        return seen.config
    if cell.key.name in invalid:
        return seen.config if seen is not None else None
    return with_counts(cell, seen)


def _is_overdue(cell: CellSeen, observed: Observed) -> bool:
    since = observed.building_since.get(cell.name)
    return since is not None and observed.at - since >= LONGEST_BUILD


def _restores(plan: Plan, due: list[CellMemory]) -> bool:
    """A cell that carried requests and is gone is put back at once, whatever is being built.

    Not when it goes again and again: then another writer would make us cut everybody's builds.
    """
    weights = {name: weight for service in plan.memory.services.values() for name, weight in service.weights.items()}
    return any(cell.was_ready and weights.get(cell.key.name, 0) > 0 for cell in due if cell.restores == 1)


def _is_declared(plan: Plan, cell: CellMemory, observed: Observed) -> bool:
    """With selfHeal off a cell that somebody removed stays away."""
    service = plan.memory.services[cell.key.service]
    return observed.cell(cell.key.name) is not None or _heals(plan, service)


def _is_present(seen: CellSeen | None) -> bool:
    return seen is not None and seen.status is not CellStatus.DELETING


def _needs_put(plan: Plan, service: ServiceMemory, cell: CellMemory, seen: CellSeen | None) -> bool:
    if seen is None or not _is_present(seen):
        is_due = not cell.was_seen or cell.restored_at == plan.world.now
        return is_due and _heals(plan, service)
    if seen.config is None:
        return _heals(plan, service)
    if not _heals(plan, service) and not cell.bounds:
        return False
    if is_entry_left(cell, plan.world.now):
        return False
    return is_other(cell, seen.config)


def _uploads(plan: Plan, observed: Observed, put: PutServeConfig | None) -> tuple[UploadPackage, ...]:
    """Packages are looked for before each growth: Ray drops those that nobody uses."""
    needed: dict[str, tuple[str, PackageRef]] = {}
    for service, cell in _live(plan):
        seen = observed.cell(cell.key.name)
        grows = seen is not None and any(
            cell.counts.get(deployment.name, 0) > deployment.target for deployment in seen.deployments
        )
        if cell.is_retired or not (grows or (put is not None and not _is_present(seen))):
            continue
        record = service.revision(cell.key.revision)
        for package in record.packages if record else ():
            needed[package.uri] = (service.name, package)
    return tuple(UploadPackage(service=name, package=package) for _, (name, package) in sorted(needed.items()))


def _with_restarted_builds(plan: Plan, observed: Observed) -> Memory:
    """A build that this PUT cuts starts anew, and so does its deadline."""
    cut = {cell.name for cell in observed.cells if cell.is_building}
    services = dict(plan.memory.services)
    for service, cell in _live(plan):
        if cell.key.name in cut and not cell.is_retired:
            cells = tuple(
                replace(other, building_since=plan.world.now) if other.key == cell.key else other
                for other in services[service.name].cells
            )
            services[service.name] = replace(services[service.name], cells=cells)
    return Memory(services=services)
