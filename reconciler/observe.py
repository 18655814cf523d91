"""One look at everything outside: what cannot be seen makes the look incomplete, never empty."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from policies.preemption import without_leaving
from reconciler.errors import PortError
from reconciler.ports import Gateway, Ports, Reading, ServeSeen
from specs.effects import Effect, PutServeConfig, ScaleDeployment
from specs.memory import Memory
from specs.observed import CellSeen, Endpoint, Node, Observed, ReplicaState
from specs.outward import Outward
from specs.world import World

Answer = TypeVar("Answer")

NOTHING = Outward()

ENDPOINT_INTERVAL = timedelta(seconds=1)
"""How late the gateway learns of new and stopping replicas."""


async def observe(ports: Ports, reading: Reading, memory: Memory, outward: Outward = NOTHING) -> World:
    """Return the world now. Never raises for what is unreachable: `observed.problem` says what is."""
    serve, nodes, gateway = await asyncio.gather(
        _attempt(ports.serve.read()), _attempt(ports.nodes.read()), _attempt(ports.gateway.observe())
    )
    problems = [answer for answer in (serve, nodes, gateway) if isinstance(answer, str)]
    observed = Observed(
        at=ports.clock.now(),
        complete=not problems,
        problem="; ".join(dict.fromkeys(problems)),
        cells=serve.cells if not isinstance(serve, str) else (),
        nodes=_with_drains(nodes, serve) if not isinstance(nodes, str) else (),
        gateway=gateway if not isinstance(gateway, str) else None,
        serve_running=serve.running if not isinstance(serve, str) else True,
        refused=serve.refused if not isinstance(serve, str) else {},
        outward=outward,
    )
    return World(
        now=observed.at,
        desired=reading.desired,
        desired_problem=reading.problem,
        notes=reading.notes,
        observed=observed,
        memory=memory,
    )


def _with_drains(nodes: tuple[Node, ...], serve: ServeSeen | str) -> tuple[Node, ...]:
    """Return the nodes with those marked that are being drained: Serve says so of the replicas there, Ray does not."""
    cells = serve.cells if not isinstance(serve, str) else ()
    found = (replica for cell in cells for seen in cell.deployments for replica in seen.replicas)
    drained = {replica.node for replica in found if replica.is_migrating}
    return tuple(replace(node, is_draining=True) if node.id in drained else node for node in nodes)


async def _attempt(call: Awaitable[Answer]) -> Answer | str:
    try:
        return await call
    except PortError as error:
        return error.reason


class BuildWatch:
    """Since when each build is in progress. A PUT starts a build anew, and Serve then shows another time of it."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._since: Mapping[tuple[str, datetime | None], datetime] = {}

    def note(self, world: World) -> World:
        """Return the world with the builds that it shows; what cannot be seen goes on."""
        observed = world.observed
        if observed.complete:
            building = ((cell.name, cell.last_deployed_at) for cell in observed.cells if cell.is_building)
            self._since = {build: self._since.get(build, world.now) for build in building}
        since = {name: at for (name, _), at in self._since.items()}
        return replace(world, observed=replace(observed, building_since=since))


class OwnWrites:
    """What Serve took from us since it was last seen whole: all else that changed, others did."""

    def __init__(self) -> None:
        """Nothing was written yet."""
        self._counts: dict[tuple[str, str], int] = {}
        self._entries: dict[str, str] = {}

    def took(self, effects: Iterable[Effect]) -> None:
        """Note effects that were done."""
        for effect in effects:
            if isinstance(effect, ScaleDeployment):
                self._counts[effect.application, effect.deployment] = effect.target
            elif isinstance(effect, PutServeConfig):
                self._entries |= {application.name: application.config for application in effect.applications}

    def note(self, world: World) -> World:
        """Return the world with them; a complete one has seen what became of them."""
        counts, entries = self._counts, self._entries
        if world.observed.complete:
            self._counts, self._entries = {}, {}
        return replace(world, observed=replace(world.observed, own_counts=counts, own_entries=entries))


def endpoints_of(seen: ServeSeen, *, is_direct: bool) -> Mapping[str, tuple[Endpoint, ...]]:
    """Return where each application's requests can be sent: its replicas, or Serve's own proxies."""
    if is_direct:
        return {cell.name: cell.endpoints for cell in seen.cells}
    return {cell.name: seen.proxies for cell in seen.cells if _has_started(cell)}


async def endpoints_without(
    left: frozenset[str], seen: ServeSeen, memory: Memory, gateway: Gateway, *, is_direct: bool
) -> Mapping[str, tuple[Endpoint, ...]]:
    """Return where requests can be sent, those marked that are on nodes in `left`.

    The gateway is asked while there are such: what a turn saw is too old to leave a server for. Raises Retry when it
    cannot be asked.
    """
    found = endpoints_of(seen, is_direct=is_direct)
    if not left or not is_direct:
        return found
    return without_leaving(found, left, memory, await gateway.observe())


def _has_started(cell: CellSeen) -> bool:
    return bool(cell.deployments)


def is_direct(seen: ServeSeen) -> bool | None:
    """Return whether replicas have their own HTTP ports; None when no running application can tell."""
    running = [
        cell
        for cell in seen.cells
        if any(found.is_ingress and found.count(ReplicaState.RUNNING) > 0 for found in cell.deployments)
    ]
    if not running:
        return None
    return any(cell.endpoints for cell in running)
