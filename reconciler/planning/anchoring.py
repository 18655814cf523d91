"""Code of unchanged folders keeps the commit that it is remembered by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from specs.desired import Desired, DesiredService, PackageRef
from specs.memory import ServiceMemory


def anchored(desired: Desired, known: Mapping[str, ServiceMemory], kept: frozenset[str]) -> Desired:
    """Return a commit's services, packages that are the same as before named with the commit that they were read from.

    A commit names all of its packages anew. Taken over as it is, one that changes a README would be another spec of
    every service with code, and each of them saved again. `kept` are the commits that can be read whatever becomes
    of the branch: what was read from any other is named with the new commit.
    """
    services = tuple(_anchored(service, known.get(service.name), kept) for service in desired.services)
    return replace(desired, services=services)


def _anchored(service: DesiredService, memory: ServiceMemory | None, kept: frozenset[str]) -> DesiredService:
    if memory is None or not service.revision.packages:
        return service
    earlier = {_unnamed(package): package for package in memory.wanted.revision.packages if package.commit in kept}
    packages = tuple(earlier.get(_unnamed(package), package) for package in service.revision.packages)
    return replace(service, revision=replace(service.revision, packages=packages))


def _unnamed(package: PackageRef) -> PackageRef:
    return replace(package, commit="")
