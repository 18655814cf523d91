"""The node's cache of weights: contents in folders, a byte cap, and the least recently used one going first.

ROOT/lock                     held while contents are admitted, evicted or listed
ROOT/KEY/content.json         URI, ETag and size
ROOT/KEY/room                 bytes reserved for it; their sum never exceeds the cap
ROOT/KEY/reserved             the chunks that this is for, a set of bits
ROOT/KEY/{data,records,claims,signs,lease}   see cache_entry.py; the lease's time is the last use
ROOT/leaving-KEY-N            on its way out; whoever evicts next removes what a crash left of it
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loaders.safetensors.cache_content import Content, bits
from loaders.safetensors.cache_entry import RECORD, Entry, Wait, locked

LEAVING = "leaving-"
KEY = re.compile(r"[0-9a-f]{32}")
LEFT = re.compile(rf"{LEAVING}[0-9a-f]{{32}}-\d+(-new)?")
MARKERS = ("content.json", "lease")
"""Files that every content has. Whatever else lies in the folder belongs to others and is left alone."""

OPEN_ATTEMPTS = 10
"""Each one lost means that the content was evicted right between being admitted and being opened."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A content in the cache, as `heliostat cache ls` shows it. `used` is in seconds since 1970."""

    content: Content
    room: int
    present: int
    used: float
    in_use: bool


class Store:
    """One cache folder. Any number of processes use it at once; nothing is kept in memory between calls."""

    def __init__(self, folder: Path, cap: int, wait: Wait = time.sleep) -> None:
        """`wait` is how it waits for the lock."""
        self.folder = folder
        self.cap = cap
        self._wait = wait
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.stat(folder).st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "the weight cache belongs to another user", str(folder))

    def open(self, content: Content, room: int) -> Entry | None:
        """Open a content with at least so much room for its chunks, evicting others; `None` if the cap forbids it.

        With no room it is only looked at: `reserve` comes before the first chunk is kept.
        """
        for _ in range(OPEN_ATTEMPTS):
            with self._locked():
                if not self._admit(content, min(room, content.size)):
                    return None
                # Opened under the lock: nobody can evict it before the lease is held.
                entry = Entry(self._folder_of(content), content)
            if entry.is_in(entry.folder):
                os.utime(entry.folder / "lease")
                return entry
            entry.close()
        return None

    def reserve(self, content: Content, chunks: int) -> bool:
        """Reserve room for these chunks, a set of bits, of a content that is open; False if the cap forbids it.

        Others are evicted for it. What was reserved for other chunks of it, by whomever, stays.
        """
        with self._locked():
            folder = self._folder_of(content)
            together = chunks | reserved_in(folder)
            if not self._admit(content, sum(content.length_of(chunk) for chunk in bits(together))):
                return False
            write_whole(folder / "reserved", f"{together:x}")
            return True

    def has_room(self, content: Content) -> bool:
        """Tell whether room for all of a content is reserved already."""
        return room_of(self._folder_of(content)) >= content.size

    def peek(self, key: str) -> Entry | None:
        """Open what is there under a key, without making it used; `None` if it is not there."""
        folder = self.folder / key
        if not KEY.fullmatch(key):
            return None
        try:
            return Entry(folder, Content(**json.loads((folder / "content.json").read_text())))
        except (OSError, ValueError, TypeError):
            return None

    def known(self, uri: str) -> list[Content]:
        """The contents of a URI, the last used one first: what there is when the origin cannot be asked."""
        asked = Content(uri=uri, etag="", size=0)
        kept = sorted(self.kept(), key=lambda item: -item.used)
        return [item.content for item in kept if item.content.same_object(asked)]

    def kept(self) -> list[Kept]:
        """Every content, by URI."""
        found = [self._look_at(folder) for folder in self._folders()]
        return sorted((item for item in found if item), key=lambda item: (item.content.uri, item.content.key))

    def remove(self, key: str) -> bool:
        """Remove a content; False if it is in use."""
        with self._locked():
            removed = self.folder / key in self._folders() and self._evict(self.folder / key)
            self._sweep()
        return removed

    def make_room(self, wanted: int, keep: Content) -> bool:
        """Evict the least recently used contents of at least so many bytes; False if not that many could go."""
        with self._locked():
            return self._evict_bytes(wanted, keep.key) >= wanted

    def _folder_of(self, content: Content) -> Path:
        return self.folder / content.key

    def _folders(self) -> list[Path]:
        """The contents. A folder that others use as well must never lose what is theirs."""
        named = sorted(item.name for item in os.scandir(self.folder) if KEY.fullmatch(item.name))
        folders = [self.folder / name for name in named]
        return [folder for folder in folders if all((folder / marker).is_file() for marker in MARKERS)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.folder / "lock", wait=self._wait):
            yield

    def _admit(self, content: Content, room: int) -> bool:
        folder = self._folder_of(content)
        has = room_of(folder)
        missing = max(0, room - has)
        taken = sum(room_of(other) for other in self._folders())
        over = taken + missing - self.cap
        if missing and over > 0 and (room > self.cap or self._evict_bytes(over, content.key) < over):
            return False
        if not folder.exists():
            self._create(folder, content)
        if missing:
            write_whole(folder / "room", str(has + missing))
        return True

    def _create(self, folder: Path, content: Content) -> None:
        """Make the folder aside and move it into place, so that a crash leaves no half of one."""
        new = self.folder / f"{LEAVING}{content.key}-{os.getpid()}-new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        try:
            (new / "content.json").write_text(json.dumps(dataclasses.asdict(content)))
            for name, size in (("data", content.size), ("records", content.chunks * RECORD.size), ("lease", 0)):
                with (new / name).open("wb") as file:
                    file.truncate(size)
            os.rename(new, folder)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _evict_bytes(self, wanted: int, keep: str) -> int:
        """Evict the least recently used ones; nothing at all where that would not be enough."""
        others = [folder for folder in sorted(self._folders(), key=used_at) if folder.name != keep]
        freeing = [(folder, room) for folder in others if (room := room_of(folder)) and _unused(folder)]
        freed = 0
        if sum(room for _, room in freeing) >= wanted:
            for folder, room in freeing:
                if freed >= wanted:
                    break
                if self._evict(folder):
                    freed += room
        self._sweep()
        return freed

    def _evict(self, folder: Path) -> bool:
        """Take a content that nobody reads out of sight. Called with the lock held."""
        try:
            with locked(folder / "lease", fcntl.LOCK_EX | fcntl.LOCK_NB) as unused:
                if unused:
                    os.rename(folder, self.folder / f"{LEAVING}{folder.name}-{os.getpid()}")
                return unused
        except FileNotFoundError:
            return False

    def _sweep(self) -> None:
        """Delete what is out of sight. Called with the lock held: what is being made has such a name as well."""
        for item in sorted(self.folder.glob(f"{LEAVING}*")):
            if LEFT.fullmatch(item.name):
                shutil.rmtree(item, ignore_errors=True)

    def _look_at(self, folder: Path) -> Kept | None:
        try:
            entry = self.peek(folder.name)
            if entry is None:
                return None
            with entry:
                content = entry.content
                present = sum(content.length_of(chunk) for chunk in entry.present())
            with locked(folder / "lease", fcntl.LOCK_EX | fcntl.LOCK_NB) as unused:
                return Kept(
                    content=content, room=room_of(folder), present=present, used=used_at(folder), in_use=not unused
                )
        except OSError:
            return None  # evicted while being looked at


def _unused(folder: Path) -> bool:
    try:
        with locked(folder / "lease", fcntl.LOCK_EX | fcntl.LOCK_NB) as unused:
            return unused
    except FileNotFoundError:
        return False


def room_of(folder: Path) -> int:
    """Bytes reserved for a content; 0 for one that is not there."""
    try:
        return int((folder / "room").read_text())
    except (FileNotFoundError, ValueError):
        return 0


def reserved_in(folder: Path) -> int:
    """The chunks of a content for which room is reserved, as a set of bits."""
    try:
        return int((folder / "reserved").read_text(), 16)
    except (FileNotFoundError, ValueError):
        return 0


def used_at(folder: Path) -> float:
    """When a content was last opened, in seconds since 1970."""
    try:
        return os.stat(folder / "lease").st_mtime
    except FileNotFoundError:
        return 0.0


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that readers see the old or the new one, never a part."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(text)
    os.rename(aside, path)
