"""Turns the files of a folder into a Serve package: the same files give the same bytes and the same name, anywhere."""

from __future__ import annotations

import hashlib
import io
import posixpath
import zipfile
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from reconciler.adapters.git_objects import EXECUTABLE, LINK, SUBMODULE, Entry
from reconciler.errors import Stalled
from specs.unread import is_lfs_pointer

MAX_PACKAGE_BYTES = 100 * 1024 * 1024
"""Ray's dashboard refuses larger uploads."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold; real times would make equal packages differ."""
LONGEST_PATH = 4096
_MOST_FILES = 200_000
"""A few links to folders can stand for any number of files."""
_MAX_LINKS = 40
"""As many links in a row as Linux follows: more are a loop."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder as it is packaged. Paths of `entries` are named from the folder; `top` is a name put before them."""

    shown: str
    """The folder's name in error messages."""
    entries: tuple[Entry, ...]
    top: str = ""

    @property
    def id(self) -> str:
        """Return the content address: 40 hex digits over names, modes and contents."""
        digest = hashlib.sha256(b"heliostat-package-1\0" + self.top.encode(errors="surrogateescape") + b"\0")
        for entry in sorted(self.entries):
            line = f"{_mode(entry)} {entry.oid} {entry.path}\0"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()[:40]


def check(folder: Folder, max_bytes: int = MAX_PACKAGE_BYTES) -> tuple[Entry, ...]:
    """Return the files to pack, links replaced by what they point to. Raises Stalled for what cannot be packed."""
    files = _follow_links(folder)
    for entry in files:
        _check_name(folder, entry)
    total = sum(entry.size or 0 for entry in files)
    if total > max_bytes:
        raise Stalled(_too_large(folder, files, total, max_bytes))
    return files


def link_targets(entries: Iterable[Entry]) -> frozenset[str]:
    """Return the blob ids that hold where the links of a folder point to. Raises Stalled when that is no path."""
    links = [entry for entry in entries if entry.mode == LINK]
    for link in links:
        if (link.size or 0) > LONGEST_PATH:
            raise Stalled(f"{link.path!r} is a link with a target of {link.size} bytes, which is no path: remove it")
    return frozenset(link.oid for link in links)


def with_targets(folder: Folder, contents: Mapping[str, bytes]) -> Folder:
    """Return the folder with each link's text known, so that `check` can follow it."""
    links = tuple(
        _Link(path=entry.path, mode=entry.mode, oid=entry.oid, target=contents[entry.oid].decode(errors="replace"))
        if entry.mode == LINK
        else entry
        for entry in folder.entries
    )
    return replace(folder, entries=links)


def build(folder: Folder, files: Iterable[Entry], contents: Mapping[str, bytes]) -> bytes:
    """Return the zip. Nothing is compressed: zlib's output differs between its versions."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for entry in sorted(files):
            content = contents[entry.oid]
            if is_lfs_pointer(content):
                raise Stalled(
                    f"{_place(folder, entry.path)} is a Git LFS pointer, not the file itself: keep large files out of "
                    "packages (load them from object storage), or commit the file without LFS"
                )
            info = zipfile.ZipInfo(posixpath.join(folder.top, entry.path), date_time=_EPOCH)
            info.create_system = 3  # Unix, also when built elsewhere
            info.external_attr = int(_mode(entry), 8) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True, order=True)
class _Link(Entry):
    target: str


def _mode(entry: Entry) -> str:
    """Return the mode as packaged: git's old group-writable files are ordinary ones."""
    return "100644" if entry.is_file and entry.mode != EXECUTABLE else entry.mode


def _follow_links(folder: Folder) -> tuple[Entry, ...]:
    by_path = {entry.path: entry for entry in folder.entries}
    paths = sorted(by_path)
    files = [entry for entry in folder.entries if entry.mode != LINK]
    for link in (entry for entry in folder.entries if isinstance(entry, _Link)):
        files += _copies(folder, by_path, paths, link)
        if len(files) > _MOST_FILES:
            raise Stalled(f"{folder.shown!r} has more than {_MOST_FILES} files once its links are followed")
    return tuple(sorted(files))


def _copies(folder: Folder, by_path: Mapping[str, Entry], paths: list[str], link: _Link) -> list[Entry]:
    """Return what stands in a link's place: Ray does not unpack links, so their targets are packed twice.

    `paths` are those of `by_path`, sorted: a folder of many links must not be gone through for each of them.
    """
    target = _resolve(folder, by_path, link)
    if target in by_path:
        return [replace(by_path[target], path=link.path)]
    first, last = bisect_left(paths, f"{target}/"), bisect_left(paths, f"{target}0")  # "0" comes right after "/".
    below = [by_path[path] for path in paths[first:last]]
    if not below:
        raise Stalled(
            f"{_place(folder, link.path)} is a link to {link.target!r}, which is not in the package: "
            "commit the target inside the same folder, or remove the link"
        )
    if any(entry.mode == LINK for entry in below) or link.path.startswith(f"{target}/"):
        raise Stalled(
            f"{_place(folder, link.path)} is a link to a folder that holds links itself: link to its files instead"
        )
    return [replace(entry, path=link.path + entry.path.removeprefix(target)) for entry in below]


def _resolve(folder: Folder, by_path: Mapping[str, Entry], link: _Link) -> str:
    """Return where a chain of links ends, as a path in the folder."""
    path = link.path
    current: Entry | None = link
    for _ in range(_MAX_LINKS):
        if not isinstance(current, _Link):
            return path
        target = current.target
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if target.startswith("/") or path == ".." or path.startswith("../"):
            raise Stalled(
                f"{_place(folder, link.path)} is a link that leaves the packaged folder (to {target!r}): a replica "
                "sees only this folder, so copy the file into it or package a folder that holds both"
            )
        current = by_path.get(path)
    raise Stalled(f"{_place(folder, link.path)} is a link that leads back to itself: remove it")


def _check_name(folder: Folder, entry: Entry) -> None:
    if entry.mode == SUBMODULE:
        raise Stalled(
            f"{_place(folder, entry.path)} is a submodule, whose files are in another repository: commit them here, "
            "or mark the path export-ignore in .gitattributes"
        )
    if not entry.is_file:
        raise Stalled(f"{_place(folder, entry.path)} is neither a file nor a link (mode {entry.mode}): remove it")
    if "\\" in entry.path or (len(entry.path) > 1 and entry.path[1] == ":"):
        raise Stalled(f"{_place(folder, entry.path)} has a name that Ray does not unpack: rename it")
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        shown = entry.path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise Stalled(f"{_place(folder, shown)} has a name that is not UTF-8: rename it") from None


def _too_large(folder: Folder, files: Iterable[Entry], total: int, max_bytes: int) -> str:
    largest = sorted(files, key=lambda entry: (-(entry.size or 0), entry.path))[:3]
    names = ", ".join(f"{entry.path} ({_mebibytes(entry.size or 0)})" for entry in largest)
    return (
        f"the package of {folder.shown} is {_mebibytes(total)}, more than the {_mebibytes(max_bytes)} that Ray takes; "
        f"largest: {names}. Load large files from object storage, or mark them export-ignore in .gitattributes"
    )


def _mebibytes(size: int) -> str:
    return f"{size / 1024 / 1024:.1f} MiB"


def _place(folder: Folder, path: str) -> str:
    return posixpath.join(folder.shown, path)
