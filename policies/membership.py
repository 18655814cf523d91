"""Which services there are: what a commit adds, changes and takes away, and how many may move at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from specs.decisions import AdoptSpec, Decision, Hold, Proceed, Remove, StartRollout
from specs.desired import Desired
from specs.memory import ServiceMemory
from specs.reasons import Reason
from specs.service import PRUNE
from specs.updated import updated
from specs.world import World


def adopt(world: World) -> tuple[AdoptSpec, ...]:
    """Return the specs of the commit that differ from the ones held to."""
    if world.desired is None:
        return ()
    known = world.memory.services
    routes = free_routes(world.desired, known)
    wanted = (updated(service, route=routes[service.name]) for service in world.desired.services)
    return tuple(
        AdoptSpec(service=service.name, wanted=service, commit=world.desired.commit.sha)
        for service in wanted
        if service.name not in known or known[service.name].wanted != service or known[service.name].is_removed
    )


def free_routes(desired: Desired, known: Mapping[str, ServiceMemory]) -> Mapping[str, str]:
    """Return the route of each service: as the commit says, or as it is while another service still holds that.

    A commit has no route twice, but a service that left it, or whose file is broken, is held with its own.
    """
    held = {name: memory.wanted.route for name, memory in sorted(known.items()) if not memory.is_removed}
    routes = held | {service.name: service.route for service in desired.services}
    while True:
        claims = Counter(routes.values())
        losers = [name for name in held if claims[routes[name]] > 1 and routes[name] != held[name]]
        if not losers:
            return routes
        routes |= {name: held[name] for name in losers}


def route_conflicts(world: World) -> Mapping[str, Hold]:
    """Return why a service is not (or not yet) where its commit wants it."""
    desired, known = world.desired, world.memory.services
    if desired is None:
        return {}
    holders = _holders(known)
    conflicts = {}
    for service in desired.services:
        owner = next((name for name in holders.get(service.route, ()) if name != service.name), None)
        if owner is not None and (known[service.name].stable is None or known[service.name].wanted != service):
            text = f"{service.route} belongs to {owner} until that is removed or takes another route"
            conflicts[service.name] = Hold(service=service.name, reason=Reason.ROUTE_CONFLICT, message=text)
    return conflicts


def _holders(known: Mapping[str, ServiceMemory]) -> Mapping[str, Sequence[str]]:
    """Return who has cells under each route, by name."""
    found: dict[str, list[str]] = {}
    for name, memory in sorted(known.items()):
        if memory.cells and not memory.is_removed:
            found.setdefault(memory.wanted.route, []).append(name)
    return found


def prune(world: World) -> Mapping[str, Decision]:
    """Return what happens to each service that is not in the commit any more."""
    desired = world.desired
    if desired is None:
        return {}
    wanted = {service.name for service in desired.services}
    gone = [name for name, memory in sorted(world.memory.services.items()) if name not in wanted]
    pending = [name for name in gone if not world.memory.services[name].is_removed]
    veto = _prune_veto(desired, world.memory.services, gone)
    if veto is None:
        return {name: _removal(desired, world.memory.services, name, gone) for name in pending}
    reason, message = veto
    return {name: Hold(service=name, reason=reason, message=message) for name in pending}


def _removal(desired: Desired, services: Mapping[str, ServiceMemory], name: str, gone: list[str]) -> Decision:
    """Remove a service after those that need it: they may answer requests by asking it."""
    if not services[name].wanted.is_prunable:
        text = f"it left the repository, and {PRUNE}: disabled keeps it; it goes when a commit has it without that"
        return Hold(service=name, reason=Reason.PRUNE_DISABLED, message=text)
    staying = [service.name for service in desired.services if name in service.depends_on]
    leaving = [other for other in gone if other != name and name in services[other].wanted.depends_on]
    needing = [*staying, *(other for other in leaving if not _needs(services, name, other))]
    if not needing:
        return Remove(service=name)
    text = f"it left the repository, and {', '.join(needing)} still depends on it: it is removed after that"
    return Hold(service=name, reason=Reason.STILL_NEEDED, message=text)


def _needs(services: Mapping[str, ServiceMemory], name: str, wanted: str) -> bool:
    """Return whether `name` itself depends on `wanted`, over however many: in a circle nobody waits."""
    seen: set[str] = set()
    open_ = [name]
    while open_:
        current = open_.pop()
        if current in services and current not in seen:
            seen.add(current)
            open_ += services[current].wanted.depends_on
    return wanted in seen - {name}


def _prune_veto(desired: Desired, services: Mapping[str, ServiceMemory], gone: list[str]) -> tuple[Reason, str] | None:
    """Return why nothing may be removed now. A bad file never deletes anything."""
    settings = desired.settings.prune
    if desired.errors:
        first = str(desired.errors[0])
        return Reason.INVALID_SPEC, f"not in the commit as readable now ({first}); kept as it is until that is mended"
    if not settings.enabled:
        return Reason.PRUNE_DISABLED, "it left the repository; set prune.enabled in the ClusterPolicy to remove it"
    if not desired.services:
        return Reason.PRUNE_GUARD, "the commit has no services at all; nothing is removed on that account"
    share = max(1, settings.max_fraction.round_down(len(services)))
    allowed = min(settings.max_services, share)
    if len(gone) > allowed:
        text = f"the commit removes {len(gone)} of {len(services)} services and prune allows {allowed} at once"
        return Reason.PRUNE_GUARD, text
    return None


def moving(memory: Mapping[str, ServiceMemory]) -> frozenset[str]:
    """Return the services whose rollout is in progress and does not stand still for a person or a window."""
    return frozenset(name for name, service in memory.items() if is_moving(service))


def is_moving(service: ServiceMemory) -> bool:
    """Return whether a service's rollout is in progress and holds a place among those that move."""
    return service.rollout is not None and not service.rollout.is_parked


def limit_moving(decision: StartRollout | Proceed, busy: frozenset[str], limit: int) -> Hold | None:
    """Return why one more rollout may not start or go on: too many others move already; None when it may."""
    if len(busy) < limit:
        return None
    names = ", ".join(sorted(busy))
    text = f"{len(busy)} services are moving ({names}) and budget.maxServicesMoving is {limit}"
    return Hold(service=decision.service, reason=Reason.SERVICES_MOVING, message=text)
