"""The packages of commits: which files of a folder count, what they are called together, and their zip."""

from __future__ import annotations

import posixpath
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from reconciler.adapters import packaging
from reconciler.adapters.git_objects import ATTRIBUTES, Entry, Listing, Objects
from reconciler.adapters.packaging import Folder
from reconciler.errors import Stalled
from specs.desired import PackageRef
from specs.unread import SPEC_SUFFIXES

IsSpecFile = Callable[[bytes], bool]

LARGEST_SPEC = 4 << 20
"""A larger YAML file is data, packed like any other: a few kilobytes in Git can be gigabytes as a file."""
_CACHED_FOLDERS = 4096
"""Fewer than a repository has services would mean to list all their folders again at each commit."""

_CACHED_COMMITS = 2
"""Their listings: the newest commit's, and the one that it is compared with."""


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """What a folder's listing depends on: the same key gives the same listing, in any commit."""

    tree: str
    path: str
    attributes: tuple[tuple[str, str], ...]
    """Blob ids of the attribute files above the folder; those inside it are part of its tree."""


class Packer:
    """Packages folders of any commit in the mirror; remembers listings across commits."""

    def __init__(self, objects: Objects, is_spec_file: IsSpecFile, max_bytes: int) -> None:
        """`is_spec_file` tells which YAML files are Heliostat's own and stay out of packages."""
        self._objects = objects
        self._is_spec_file = is_spec_file
        self._max_bytes = max_bytes
        self._folders: OrderedDict[_Listed, tuple[Folder, str]] = OrderedDict()
        self._commits: OrderedDict[str, CommitPackages] = OrderedDict()
        self._contents: Mapping[str, bytes] = {}

    def at(self, commit: str) -> CommitPackages:
        """Return the packages of one commit."""
        found = self._commits.pop(commit, None) or CommitPackages(self, self._objects, commit)
        self._commits[commit] = found
        while len(self._commits) > _CACHED_COMMITS:
            self._commits.popitem(last=False)
        return found

    def package(self, ref: PackageRef) -> bytes:
        """Return the zip of a folder. Raises Stalled when it cannot be packed or is not what `ref` names."""
        folder = self.at(ref.commit).folder(ref.path, keep_folder=ref.keep_folder)
        if folder is None:
            raise Stalled(f"commit {ref.commit} has no folder {ref.path!r}")
        if folder.id != ref.tree:
            raise Stalled(f"folder {ref.path!r} of commit {ref.commit} packs to {folder.id}, not to {ref.tree}")
        links = self._objects.blobs(packaging.link_targets(folder.entries))
        files = packaging.check(packaging.with_targets(folder, links), self._max_bytes)
        return packaging.build(folder, files, self._objects.blobs(entry.oid for entry in files))

    def know(self, contents: Mapping[str, bytes]) -> None:
        """Take blobs that were read already, by id: the YAML files of packages mostly are."""
        self._contents = contents

    def folder(self, listed: _Listed, listing: Listing) -> tuple[Folder, str]:
        """Return what is packaged of a folder, named from the folder, and its content address without a top."""
        found = self._folders.pop(listed, None)
        if found is None:
            folder = Folder(shown=listed.path or ".", entries=self._list(listed, listing.below(listed.path)))
            found = (folder, folder.id)
        self._folders[listed] = found
        while len(self._folders) > _CACHED_FOLDERS:
            self._folders.popitem(last=False)
        return found

    def _list(self, listed: _Listed, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        ignored = self._ignored(listed, entries)
        kept = _outside(ignored, entries) if ignored else entries
        yaml = [
            entry
            for entry in kept
            if entry.is_file and entry.path.endswith(SPEC_SUFFIXES) and (entry.size or 0) <= LARGEST_SPEC
        ]
        unread = self._objects.blobs(entry.oid for entry in yaml if entry.oid not in self._contents)
        specs = {
            entry.path
            for entry in yaml
            if self._is_spec_file(unread[entry.oid] if entry.oid in unread else self._contents[entry.oid])
        }
        return tuple(entry for entry in kept if entry.path not in specs)

    def _ignored(self, listed: _Listed, entries: tuple[Entry, ...]) -> frozenset[str]:
        """Return what is marked export-ignore, named from the folder, folders with a slash at the end."""
        prefix = f"{listed.path}/" if listed.path else ""
        inside = {
            prefix + entry.path: entry.oid
            for entry in entries
            if entry.is_file and posixpath.basename(entry.path) == ATTRIBUTES
        }
        attributes = dict(listed.attributes) | inside
        if not attributes:
            return frozenset()
        names = {entry.path for entry in entries}
        found = self._objects.export_ignored(attributes, (prefix + name for name in names | _folders_above(names)))
        return frozenset(path.removeprefix(prefix) for path in found)


class CommitPackages:
    """The folders of one commit, as `specs.parse` asks for them."""

    def __init__(self, packer: Packer, objects: Objects, commit: str) -> None:
        """Nothing is read until it is asked for."""
        self._packer = packer
        self._objects = objects
        self._commit = commit

    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        """Return the content address of a folder as packaged; None when the commit has no such folder.

        `path` is named from the repository's root, "" for the root itself. With `keep_folder` the
        package holds the folder under its own name (for `py_modules`); the root has none.
        """
        found = self._found(path)
        if found is None or (keep_folder and not _clean(path)):
            return None
        return replace(found[0], top=posixpath.basename(_clean(path))).id if keep_folder else found[1]

    def folder(self, path: str, *, keep_folder: bool) -> Folder | None:
        """Return a folder's packaged content, or None when the commit has no such folder."""
        path = _clean(path)
        found = self._found(path)
        if found is None or (keep_folder and not path):
            return None
        return replace(found[0], top=posixpath.basename(path)) if keep_folder else found[0]

    def _found(self, path: str) -> tuple[Folder, str] | None:
        path = _clean(path)
        tree = self.listing.folders.get(path)
        if tree is None:
            return None
        listed = _Listed(tree=tree, path=path, attributes=self._attributes_above(path))
        return self._packer.folder(listed, self.listing)

    def _attributes_above(self, path: str) -> tuple[tuple[str, str], ...]:
        known = self.listing.attributes
        if not known:
            return ()
        above = (posixpath.join(folder, ATTRIBUTES) for folder in ("", *_folders_of(path)))
        return tuple(sorted((file, known[file]) for file in above if file in known))

    @cached_property
    def listing(self) -> Listing:
        """Everything that the commit holds."""
        return self._objects.listing(self._commit)


def _clean(path: str) -> str:
    """Return a path named from the repository's root; "" for the root itself."""
    path = posixpath.normpath(path).strip("/") if path else ""
    return "" if path == "." else path


def _folders_of(path: str) -> list[str]:
    """Return the folders that hold a path, outermost first, each with a slash at the end."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) + "/" for count in range(len(parts))]


def _folders_above(paths: Iterable[str]) -> set[str]:
    """Return the folders that hold any of the paths. Each is named once: a commit may nest thousands of them."""
    found = set[str]()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and f"{folder}/" not in found:
            found.add(f"{folder}/")
            folder = folder.rpartition("/")[0]
    return found


def _outside(ignored: frozenset[str], entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return the entries that are not ignored, nor below a folder that is."""
    known = {"": False}

    def is_ignored(folder: str) -> bool:
        climbed = []
        while folder not in known:
            climbed.append(folder)
            folder = folder.rpartition("/")[0]
        for below in reversed(climbed):
            known[below] = known[folder] or f"{below}/" in ignored
            folder = below
        return known[folder]

    return tuple(
        entry for entry in entries if entry.path not in ignored and not is_ignored(entry.path.rpartition("/")[0])
    )
