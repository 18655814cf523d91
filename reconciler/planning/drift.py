"""What somebody else changed in Serve since the last look, field by field.

A difference alone says little: a command of ours may not have reached Serve. It is somebody else's when Serve shows
another value than at the last look, and not the one that was commanded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from policies.drift import REPLICAS, left_until, noted, words
from policies.recall import recalled
from policies.view import CellView, ServiceView, view_of
from reconciler.planning.compose import with_counts, without_counts
from specs.decisions import Decision, NoteDrift
from specs.memory import CellMemory, Drift
from specs.observed import CellSeen, CellStatus
from specs.serve_document import deployed_form, same_application
from specs.world import World

COUNTS = ("min_replicas", "max_replicas")


def notice(world: World, name: str) -> tuple[Decision, ...]:
    """Return what others changed of a service since Memory was last brought up to what was observed."""
    if not world.observed.complete or name not in world.memory.services:
        return ()
    view = view_of(world, name)
    heals = world.desired is None or world.desired.settings.self_heal
    return tuple(
        _note(view, cell.memory, drift, heals=heals)
        for cell in view.cells
        if not cell.memory.is_retired
        for drift in _changes(view, cell)
    )


def _note(view: ServiceView, cell: CellMemory, found: Drift, *, heals: bool) -> Decision:
    drift = noted(cell, found)
    until = left_until(drift)
    does = "it is put right" if until <= view.now else f"it is left until {until:%H:%M:%S}"
    text = f"somebody else changed it: {words(cell, drift)}; {does if heals else 'selfHeal is off'}"
    return NoteDrift(service=view.name, cell=cell.key, drift=drift, text=text)


def _changes(view: ServiceView, cell: CellView) -> Iterator[Drift]:
    seen = cell.seen
    if seen is None or seen.status is CellStatus.DELETING:
        return
    for deployment in seen.deployments:
        wanted = cell.memory.counts.get(deployment.name)
        own = view.observed.own_counts.get((cell.name, deployment.name))
        before = cell.memory.targets.get(deployment.name) if own is None else own
        if wanted is not None and before is not None and deployment.target not in (wanted, before):
            yield Drift(
                field=REPLICAS,
                deployment=deployment.name,
                found=str(deployment.target),
                wanted=str(wanted),
                first_at=view.now,
                at=view.now,
            )
    if seen.config is not None and _is_rewritten(cell.memory, seen.config, view.observed.own_entries.get(cell.name)):
        yield from _entry_changes(view, cell.memory, seen)


def _is_rewritten(cell: CellMemory, config: str, own: str | None) -> bool:
    """Return whether others wrote Serve's entry since the last look, or since `own` was put after it."""
    if own is not None:
        return not same_application(own, config)
    return cell.written not in ("", _digest(config))


def _entry_changes(view: ServiceView, cell: CellMemory, seen: CellSeen) -> Iterator[Drift]:
    entries = _entries(cell, seen)
    if entries is None or same_application(*entries):
        return
    wanted, found = (deployed_form(json.loads(entry)) for entry in entries)
    for deployment, field, new, old in _differences(found, wanted):
        shown = (str(new), str(old)) if field in COUNTS else ("", "")
        yield Drift(field=field, deployment=deployment, found=shown[0], wanted=shown[1], first_at=view.now, at=view.now)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Return (deployment, field, found, wanted) of what differs, by Serve's own names."""
    for field in sorted((found.keys() | wanted.keys()) - {"deployments"}):
        if found.get(field) != wanted.get(field):
            yield "", field, found.get(field), wanted.get(field)
    theirs, ours = _by_name(found), _by_name(wanted)
    for name in sorted(theirs.keys() | ours.keys()):
        mine, other = _flat(ours.get(name, {})), _flat(theirs.get(name, {}))
        for field in sorted(mine.keys() | other.keys()):
            if other.get(field) != mine.get(field):
                yield name, field, other.get(field), mine.get(field)


def _by_name(entry: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return {deployment["name"]: deployment for deployment in entry.get("deployments") or []}


def _flat(deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a deployment's fields with its bounds among them."""
    return {**deployment, "autoscaling_config": None, **(deployment.get("autoscaling_config") or {})}


def digest(seen: CellSeen) -> str:
    """Return a short name for a cell's entry as Serve has it; "" when it has none."""
    return _digest(seen.config) if seen.config is not None else ""


def _digest(config: str) -> str:
    return hashlib.sha256(config.encode()).hexdigest()[:16]


def standing(world: World, name: str) -> tuple[str, ...]:
    """Return what of a service is in Serve otherwise than commanded before this look, changed by whomever."""
    if not world.observed.complete:
        return ()
    view = view_of(world, name)
    known = {cell.name for cell in view.cells}
    strangers = (cell.name for cell in world.observed.cells_called(name) if cell.name not in known)
    others = (f"{other} is in Serve and not Heliostat's: nothing is done to it" for other in sorted(strangers))
    return (*_changed(view), *others)


@recalled
def _changed(view: ServiceView) -> tuple[str, ...]:
    cells = (cell for cell in view.cells if not cell.memory.is_retired and cell.memory.targets)
    return tuple(text for cell in cells for text in _standing(cell.memory, cell.seen))


def _standing(cell: CellMemory, seen: CellSeen | None) -> Iterator[str]:
    if seen is None or seen.status is CellStatus.DELETING:
        yield f"{cell.key.name} is missing in Serve"
        return
    for deployment in seen.deployments:
        wanted = cell.counts.get(deployment.name, deployment.target)
        if wanted != deployment.target:
            yield f"{deployment.name} of {cell.key.name} has {deployment.target} replicas, not {wanted}"
    entries = _entries(cell, seen)
    if entries is not None and not same_application(*entries):
        yield from (words(cell, drift) for drift in cell.drifts if drift.field != REPLICAS)


def _entries(cell: CellMemory, seen: CellSeen) -> tuple[str, str] | None:
    """Return our entry and Serve's, as far as they must be the same; None when Serve tells none."""
    if seen.config is None:
        return None
    ours = with_counts(cell, seen)
    return (without_counts(ours), without_counts(seen.config)) if cell.is_externally_scaled else (ours, seen.config)
