"""What differs between two readings of the specs, and what each difference leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from policies.membership import prune
from reconciler.planning.differences import fields_of, policy_fields
from specs.decisions import Hold
from specs.desired import AutoScale, Commit, DesiredService, PackageRef
from specs.memory import Memory, ServiceMemory
from specs.observed import Observed
from specs.parse import Specs
from specs.planned import (
    Action,
    Consequence,
    FileChange,
    FileFate,
    PlannedChange,
    PlannedCommit,
    PlannedHold,
    PlannedService,
)
from specs.reasons import Reason
from specs.unread import with_lost
from specs.world import World

Packaged = Callable[[PackageRef], Mapping[str, str]]
"""The files of a package, each with what tells its contents apart."""

_BY_WEIGHT = (
    (Consequence.REVISION, Action.ROLL),
    (Consequence.ROUTE, Action.ROUTE),
    (Consequence.SCALE, Action.SCALE),
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def changes(base: Specs, head: Specs, packaged: Packaged) -> PlannedChange:
    """Return what merging `head` into `base` changes."""
    head = replace(head, desired=with_lost(head.desired, base.desired.services, base.desired.policy_path))
    before = {service.name: service for service in base.desired.services}
    after = {service.name: service for service in head.desired.services}
    kept = _kept(base, head)
    found = [
        planned
        for name in sorted(before.keys() | after.keys())
        if (planned := _planned(name, base, head, packaged)) is not None
    ]
    return PlannedChange(
        base=_commit(base.desired.commit),
        head=_commit(head.desired.commit),
        services=tuple(replace(planned, holds=kept.get(planned.name, planned.holds)) for planned in found),
        unchanged=len((before.keys() & after.keys()) - {planned.name for planned in found}),
        policy=policy_fields(base.policy, head.policy) if head.desired.is_policy_known else (),
        errors=head.desired.errors,
    )


def _commit(commit: Commit) -> PlannedCommit:
    return PlannedCommit(sha=commit.sha, subject=commit.subject, committed_at=commit.committed_at)


def _planned(name: str, base: Specs, head: Specs, packaged: Packaged) -> PlannedService | None:
    old, new = base.desired.service(name), head.desired.service(name)
    if old is None and new is not None:
        return _described(new, Action.ADD, revision_after=new.revision.id, warnings=_warnings(None, new))
    if old is not None and new is None:
        is_broken = any(error.is_about(old.source.path) for error in head.desired.errors)
        action = Action.KEEP if is_broken else Action.DESTROY
        return _described(old, action, revision_before=old.revision.id)
    if old is None or new is None or is_same_service(old, new):
        return None
    fields = fields_of((old, base.written[name]), (new, head.written[name]))
    if not fields and old.revision.id == new.revision.id:
        return None
    action = next((act for kind, act in _BY_WEIGHT if any(f.consequence is kind for f in fields)), Action.CONFIGURE)
    planned = _described(new, action, revision_before=old.revision.id, revision_after=new.revision.id)
    holds = (PlannedHold(reason=Reason.SUSPENDED, message=_SUSPENDED),) if new.suspend and old.suspend else ()
    files = tuple(_files(old, new, packaged))
    return replace(planned, fields=fields, files=files, holds=holds, warnings=_warnings(old, new))


_SUSPENDED = "suspend: true in its spec; nothing moves until that is taken out"


def _described(service: DesiredService, action: Action, **rest: object) -> PlannedService:
    planned = PlannedService(
        name=service.name, action=action, path=service.source.path, line=service.source.line, route=service.route
    )
    return replace(planned, **rest)  # type: ignore[arg-type]


def is_same_service(one: DesiredService, other: DesiredService) -> bool:
    """Return whether two specs ask for the same, wherever they are written."""
    return one == other or without_place(one) == without_place(other)


def without_place(service: DesiredService) -> DesiredService:
    """Return what counts of a service: not where it is written, nor from which commit its packages are made."""
    packages = tuple(replace(package, commit="", path="") for package in service.revision.packages)
    return replace(
        service,
        source=replace(service.source, path="", line=0),
        revision=replace(service.revision, packages=packages),
    )


def _files(old: DesiredService, new: DesiredService, packaged: Packaged) -> list[FileChange]:
    """Return the files that differ in packages at the same place, named from the repository's root."""
    earlier = {package.where: package for package in old.revision.packages}
    found: dict[str, FileFate] = {}
    for package in new.revision.packages:
        former = earlier.get(package.where)
        if former is not None and former.tree != package.tree and former.path == package.path:
            prefix = f"{package.path}/" if package.path else ""
            found |= {prefix + path: fate for path, fate in _fates(packaged(former), packaged(package)).items()}
    return [FileChange(path=path, fate=fate) for path, fate in sorted(found.items())]


def _fates(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, FileFate]:
    added = dict.fromkeys(after.keys() - before.keys(), FileFate.ADDED)
    removed = dict.fromkeys(before.keys() - after.keys(), FileFate.REMOVED)
    both = before.keys() & after.keys()
    return added | removed | {path: FileFate.CHANGED for path in both if before[path] != after[path]}


def _kept(base: Specs, head: Specs) -> Mapping[str, tuple[PlannedHold, ...]]:
    """Return why services that left the repository stay, by the rules that the daemon goes by."""
    services = {service.name: ServiceMemory(name=service.name, wanted=service) for service in base.desired.services}
    needed = {need for service in head.desired.services for need in service.depends_on}
    world = World(
        now=_EPOCH,
        desired=head.desired,
        observed=Observed(at=_EPOCH, complete=True),
        memory=Memory(services=services),
    )
    return {
        name: (PlannedHold(reason=decision.reason, message=decision.message),)
        for name, decision in prune(world).items()
        if isinstance(decision, Hold) and (decision.reason is not Reason.STILL_NEEDED or name in needed)
    }


def _warnings(old: DesiredService | None, new: DesiredService) -> tuple[str, ...]:
    """Return what a person should know before merging."""
    found = []
    if old is not None and old.revision.id != new.revision.id:
        found += [_downtime(deployment, count) for deployment, count in _replaced_at_once(new)]
    if not new.revision.deployments:
        found.append(
            "no deployment is listed: they run at their code's counts, outside of maxSurge, and their resources are "
            "not known here; list them under application.deployments"
        )
    elif old is not None:
        left = {one.name for one in old.revision.deployments} - {one.name for one in new.revision.deployments}
        found += [_UNLISTED.format(name=name) for name in sorted(left)]
    if old is not None and old.route != new.route:
        found.append(f"requests to {old.route} get 404 as soon as {new.route} takes its place")
    return tuple(found)


_UNLISTED = (
    "{name} is not listed any more: if the code still has it, the new revision starts it at its code's count, outside "
    "of maxSurge, and only when it is seen is it counted"
)


def _replaced_at_once(service: DesiredService) -> list[tuple[str, int]]:
    """Return the deployments none of whose replicas has to serve while they are replaced."""
    counts = []
    for deployment in service.revision.deployments:
        if deployment.scale is None:
            continue
        scale = deployment.scale
        count = scale.min_replicas if isinstance(scale, AutoScale) else scale.replicas
        if service.rollout.max_unavailable.round_down(count) >= count:
            counts.append((deployment.name, count))
    return counts


def _downtime(deployment: str, count: int) -> str:
    replicas = "the one replica" if count == 1 else f"all {count} replicas"
    return (
        f"downtime: the spec lets {replicas} of {deployment} be gone at the same time (maxUnavailable); "
        "with maxSurge: 1 and maxUnavailable: 0 the new one is ready first"
    )
