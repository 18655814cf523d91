"""The files of one commit that documents are laid on, and how much all specs of the commit may stand for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from specs.merging import filed
from specs.yaml_marks import YamlFile, read_yaml

MOST_VALUES = 1_000_000
"""Values of all specs of a commit, bases counted wherever they are taken: the work of reading them, some ten seconds.

A few kilobytes in which bases multiply would otherwise keep the daemon busy for hours.
"""

MOST_KEPT = 200_000
"""Values of the files that are kept at hand while a commit is read, about 100 MB of memory."""

AT_HAND = 5
"""A file counts for a fifth of its values when one of its documents is taken, and that document for all of its own."""

SPENT = (
    f"up to here the specs of this commit stand for more than {MOST_VALUES:,} values, bases counted wherever they are "
    "taken: take fewer or smaller bases, or divide the folder among several daemons (--path)"
)


class Library:
    """Each file that is taken is parsed once, however many documents take it."""

    def __init__(self) -> None:
        """Nothing is taken yet."""
        self.left = MOST_VALUES
        self._kept: OrderedDict[str, YamlFile] = OrderedDict()
        self._values = 0

    @property
    def is_spent(self) -> bool:
        """Return whether nothing more is to be read of the commit."""
        return self.left <= 0

    def spend(self, values: int) -> None:
        """Count values that the commit's specs stand for."""
        self.left -= values

    def take(self, path: str, content: bytes) -> YamlFile:
        """Return a file whose values know where they are from.

        It is counted in part each time, for it may have to be parsed again. What is counted must not depend on what
        is at hand: every reader of a commit has to say the same of it.
        """
        file = self._kept.pop(path, None) or self._read(path, content)
        self._kept[path] = file
        while self._values > MOST_KEPT and len(self._kept) > 1:
            self._values -= self._kept.popitem(last=False)[1].values
        self.spend(file.values // AT_HAND)
        return file

    def _read(self, path: str, content: bytes) -> YamlFile:
        file = read_yaml(content)
        self._values += file.values
        return replace(file, documents=tuple(replace(one, root=filed(one.root, path)) for one in file.documents))
