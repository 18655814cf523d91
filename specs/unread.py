"""What stands in a commit where specs are read and cannot be read itself: links, submodules, Git LFS pointers, UTF-16.

Passed over, such a thing would look as if its services had been taken out of the repository.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from specs.desired import Desired, DesiredService, SpecError, Unread, Unreadable
from specs.service import GROUP

SPEC_SUFFIXES = (".yaml", ".yml")

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES = 1024

LFS_MESSAGE = (
    "this is a Git LFS pointer, so what the spec says is not in the commit: take the file out of LFS (.gitattributes) "
    "and commit it itself; if it is no spec, keep it out of the folder that is read"
)


WIDE_MESSAGE = "the file is UTF-16 or UTF-32 text: save it as UTF-8"

_WIDE = tuple(GROUP.encode(encoding) for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"))

_MESSAGES = {
    Unreadable.LINK: (
        "this is a link, and specs are not read through links: commit the files themselves; services share a spec "
        "with bases"
    ),
    Unreadable.SUBMODULE: (
        "this is a submodule, whose files are in another repository: commit the specs here, or have a daemon of "
        "its own read that repository"
    ),
    Unreadable.SPECIAL: "this is neither a file nor a folder: commit the file itself",
}


def error_of(place: Unread) -> SpecError:
    """Return what is told of it."""
    return SpecError(path=place.path, line=1, column=1, message=_MESSAGES[place.kind])


def is_lfs_pointer(content: bytes) -> bool:
    """Return whether a file is what Git LFS leaves in its place."""
    return len(content) <= _LFS_POINTER_BYTES and content.startswith(_LFS_POINTER)


def is_wide(content: bytes) -> bool:
    """Return whether a file speaks of Heliostat in an encoding that some editors save: it is a spec all the same."""
    return any(name in content for name in _WIDE)


def with_lost(desired: Desired, known: Iterable[DesiredService], policy_path: str = "") -> Desired:
    """Return a commit with an error for each unreadable place in which something was written that it lacks.

    `known` are the services as they were wanted last, `policy_path` is where the ClusterPolicy was ("" without one).
    A folder of code may well be a submodule; one that held the specs of live services before may not.
    """
    if not desired.unread:
        return desired
    names = {service.name for service in desired.services}
    lost = {service.source.path for service in known if service.name not in names}
    policy = policy_path if not desired.policy_path else ""
    told = (error_of(place) for place in desired.unread)
    found = {error for error in told if any(error.is_about(path) for path in (*lost, policy))}
    if not found:
        return desired
    is_policy_lost = any(error.is_about(policy) for error in found)
    return replace(
        desired,
        errors=tuple(sorted({*desired.errors, *found})),
        is_policy_known=desired.is_policy_known and not is_policy_lost,
    )
