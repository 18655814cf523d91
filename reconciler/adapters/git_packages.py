"""The packages of commits: which files of a folder count, what they are called together, and their zip."""

from __future__ import annotations

import posixpath
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from reconciler.adapters import packaging
from reconciler.adapters.git_objects import ATTRIBUTES, Entry, Objects
from reconciler.adapters.packaging import Folder
from reconciler.errors import Stalled
from specs.desired import PackageRef

IsSpecFile = Callable[[bytes], bool]

_CACHED_FOLDERS = 512
_SPEC_SUFFIXES = (".yaml", ".yml")


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
        self._listings: OrderedDict[_Listed, tuple[Entry, ...]] = OrderedDict()

    def at(self, commit: str) -> CommitPackages:
        """Return the packages of one commit."""
        return CommitPackages(self, self._objects, commit)

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

    def entries(self, listed: _Listed) -> tuple[Entry, ...]:
        """Return what is packaged of a folder, named from the folder."""
        found = self._listings.pop(listed, None)
        self._listings[listed] = found = self._list(listed) if found is None else found
        while len(self._listings) > _CACHED_FOLDERS:
            self._listings.popitem(last=False)
        return found

    def _list(self, listed: _Listed) -> tuple[Entry, ...]:
        entries = self._objects.files(listed.tree)
        ignored = self._ignored(listed, entries)
        kept = [entry for entry in entries if not _is_within(entry.path, ignored)]
        yaml = [entry for entry in kept if entry.is_file and entry.path.endswith(_SPEC_SUFFIXES)]
        contents = self._objects.blobs(entry.oid for entry in yaml)
        specs = {entry.path for entry in yaml if self._is_spec_file(contents[entry.oid])}
        return tuple(entry for entry in kept if entry.path not in specs)

    def _ignored(self, listed: _Listed, entries: tuple[Entry, ...]) -> frozenset[str]:
        """Return what is marked export-ignore, named from the folder, folders with a slash at the end."""
        prefix = f"{listed.path}/" if listed.path else ""
        inside = {
            prefix + entry.path: entry.oid
            for entry in entries
            if entry.is_file and posixpath.basename(entry.path) == ATTRIBUTES
        }
        names = {entry.path for entry in entries} | {folder for entry in entries for folder in _folders_of(entry.path)}
        found = self._objects.export_ignored(dict(listed.attributes) | inside, (prefix + name for name in names))
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
        folder = self.folder(path, keep_folder=keep_folder)
        return folder.id if folder else None

    def folder(self, path: str, *, keep_folder: bool) -> Folder | None:
        """Return a folder's packaged content, or None when the commit has no such folder."""
        path = posixpath.normpath(path).strip("/") if path else ""
        path = "" if path == "." else path
        tree = self._trees.get(path)
        if tree is None or (keep_folder and not path):
            return None
        above = [posixpath.join(folder, ATTRIBUTES) for folder in ("", *_folders_of(path))]
        attributes = self._objects.blob_ids(self._commit, above)
        listed = _Listed(tree=tree, path=path, attributes=tuple(sorted(attributes.items())))
        folder = Folder(shown=path or ".", entries=self._packer.entries(listed))
        return replace(folder, top=posixpath.basename(path)) if keep_folder else folder

    @cached_property
    def _trees(self) -> dict[str, str]:
        return dict(self._objects.folders(self._commit))


def _folders_of(path: str) -> list[str]:
    """Return the folders that hold a path, outermost first, each with a slash at the end."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) + "/" for count in range(len(parts))]


def _is_within(path: str, ignored: frozenset[str]) -> bool:
    return path in ignored or any(folder in ignored for folder in _folders_of(path))
