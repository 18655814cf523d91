"""Which entries of a commit stand where specs are read and are no files: links, submodules, and stranger things."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping

from reconciler.adapters.git_objects import LINK, SUBMODULE, Entry, Listing, Objects
from reconciler.adapters.git_packages import LARGEST_SPEC, IsSpecFile
from reconciler.adapters.packaging import LONGEST_PATH
from specs.desired import Unread, Unreadable
from specs.unread import SPEC_SUFFIXES, is_lfs_pointer


def find_unread(
    objects: Objects, odd: Iterable[Entry], listing: Callable[[], Listing], is_spec_file: IsSpecFile
) -> tuple[Unread, ...]:
    """Return what `odd` entries, those that are no files, stand for.

    One that is named as a spec is meant as one, unless it is a link to a file of the commit that is none.
    `listing` tells all that the commit holds. Blocking: call it in a thread.
    """
    odd = tuple(odd)
    links = [entry for entry in odd if entry.mode == LINK and entry.path.endswith(SPEC_SUFFIXES)]
    innocent = _to_other_files(objects, links, listing(), is_spec_file) if links else frozenset()
    return tuple(
        Unread(
            path=entry.path,
            kind=_KINDS.get(entry.mode, Unreadable.SPECIAL),
            is_spec=entry.path.endswith(SPEC_SUFFIXES) and entry not in innocent,
        )
        for entry in odd
    )


_KINDS = {LINK: Unreadable.LINK, SUBMODULE: Unreadable.SUBMODULE}


def _to_other_files(
    objects: Objects, links: Iterable[Entry], listing: Listing, is_spec_file: IsSpecFile
) -> frozenset[Entry]:
    """Return the links whose targets are files of the commit without any spec in them."""
    texts = objects.blobs(link.oid for link in links if (link.size or 0) <= LONGEST_PATH)
    found = {link: _target(link, texts, listing) for link in links}
    files = {link: file for link, file in found.items() if file is not None}
    small = {link: file for link, file in files.items() if (file.size or 0) <= LARGEST_SPEC}
    contents = objects.blobs(file.oid for file in small.values())
    specs = {link for link, file in small.items() if _may_be_spec(contents[file.oid], is_spec_file)}
    return frozenset(files.keys() - specs)


def _target(link: Entry, texts: Mapping[str, bytes], listing: Listing) -> Entry | None:
    text = texts.get(link.oid, b"/").decode(errors="surrogateescape")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(link.path), text))
    return listing.file(path)


def _may_be_spec(content: bytes, is_spec_file: IsSpecFile) -> bool:
    return is_lfs_pointer(content) or is_spec_file(content)
