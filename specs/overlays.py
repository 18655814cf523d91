"""Services that share a spec: `bases` are merged under a document, and `variables` put into its texts.

All of it happens on values that remember where they are written, so that a problem points at the file and line
of the very value that is wrong, be it in the base.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from specs.library import SPENT, Library
from specs.merging import EACH, changed, merge, text_of, without
from specs.problems import describe, did_you_mean
from specs.unread import LFS_MESSAGE, is_lfs_pointer
from specs.yaml_marks import MAX_BYTES, MAX_VALUES, Document, Mark, Node
from specs.yaml_scalars import JsonScalar

ReadFile = Callable[[str], bytes | None]
"""Return a file of the commit by its path from the root, or None."""

BASE, VARIABLES = "ServiceBase", "Variables"

MAX_DEPTH = 5
"""Bases of bases of bases: deeper, nobody finds where a value comes from."""

MAX_BASES = 10

MAX_TAKEN = 50
"""Bases of one document in all: ten bases with ten bases each, five deep, would be a hundred thousand."""

MOST_GUESSES = 20
"""Unknown variables of one document for which a known one is guessed: each guess looks at all that are known."""

_REFERENCE = re.compile(r"\$\$\(|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_OWN = ("bases", "variables")

_OWNERS = (("spec", "application"), ("spec", "application", "deployments", EACH, "ray_actor_options"))
_FOLDERS = (("working_dir",), ("py_modules", EACH))
"""Where folders of the repository are named: in the runtime environments of these owners."""


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """What is wrong with a composition, and where."""

    file: str
    mark: Mark
    message: str


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A document after everything was merged into it."""

    root: Node
    misfits: tuple[Misfit, ...] = ()


def is_composed(root: Node) -> bool:
    """Return whether a document takes anything from other files."""
    return isinstance(root.content, dict) and any(key in root.content for key in _OWN)


def compose(root: Node, file: str, read: ReadFile, library: Library) -> Composed:
    """Return a document of `file` with its bases under it and its variables in it."""
    composer = _Composer(read=read, library=library)
    merged = composer.merged(root, file, (file,))
    if composer.variables_from and not composer.misfits:
        merged = composer.filled(merged, file)
    return Composed(root=merged, misfits=tuple(composer.misfits))


@dataclass(kw_only=True)
class _Composer:
    read: ReadFile
    library: Library
    misfits: list[Misfit] = field(default_factory=list)
    variables: dict[str, JsonScalar] = field(default_factory=dict)
    variables_from: list[str] = field(default_factory=list)
    taken: int = 0
    values: int = 0
    """What the documents stand for that were taken."""
    is_full: bool = False
    """Whether something was not taken because it would be too much; that is told once."""
    filled_in: int = 0
    """Characters that took the place of variables."""

    def merged(self, root: Node, file: str, above: tuple[str, ...]) -> Node:
        """Return a document over its bases, without the fields that name them."""
        own = without(root, _OWN)
        under: Node | None = None
        for place, name in self._names(root, "bases", file):
            base = self._base(name, place, file, above)
            if base is not None:
                under = base if under is None else merge(under, base)
        for place, name in self._names(root, "variables", file):
            self._take_variables(name, place, file)
        return own if under is None else merge(under, own)

    def _names(self, root: Node, key: str, file: str) -> Iterator[tuple[Mark, str]]:
        listed = root.child(key)
        if listed is None:
            return
        entries = listed.content if isinstance(listed.content, list) else None
        if entries is None or len(entries) > MAX_BASES:
            self._wrong(
                file, listed.mark, f"{key} is a list of at most {MAX_BASES} files: write - ../base/service.yaml"
            )
            return
        for entry in entries:
            if isinstance(entry.content, str) and entry.content:
                yield entry.mark, entry.content
            else:
                self._wrong(file, entry.mark, f"a file is expected here, relative to {file}")

    def _base(self, name: str, place: Mark, file: str, above: tuple[str, ...]) -> Node | None:
        written, _, wanted = name.partition("#")
        path = self._found(written, place, file)
        self.taken += 1
        if path is None or self._is_full(place, file):
            return None
        if path in above or len(above) > MAX_DEPTH:
            way = " -> ".join((*above, path))
            text = "bases go round in a circle" if path in above else f"bases are more than {MAX_DEPTH} deep"
            self._wrong(file, place, f"{text}: {way}")
            return None
        documents = [one for one in self._documents(path) if text_of(one.root, "kind") in ("Service", BASE)]
        if wanted:
            documents = [one for one in documents if _name(one.root) == wanted]
        if len(documents) != 1:
            which = f"no Service or {BASE}" if not documents else "more than one"
            called = f' called "{wanted}"' if wanted else ""
            self._wrong(file, place, f"{path} has {which}{called}: write FILE#NAME for one of several")
            return None
        self._count(documents[0].root)
        merged = self.merged(documents[0].root, path, (*above, path))
        return _unnamed(_rebased(merged, path, file))

    def _is_full(self, place: Mark, file: str) -> bool:
        """Return whether nothing more is taken; the first place at which that is so is told."""
        told = ""
        if self.library.is_spent:
            told = SPENT
        elif self.taken > MAX_TAKEN:
            told = f"a document is laid on more than {MAX_TAKEN} bases in all: take fewer"
        elif self.values > MAX_VALUES:
            told = f"what a document takes stands for more than {MAX_VALUES:,} values: take fewer or smaller ones"
        if told and not self.is_full:
            self._wrong(file, place, told)
        self.is_full = self.is_full or bool(told)
        return self.is_full

    def _count(self, taken: Node) -> None:
        self.values += taken.values
        self.library.spend(taken.values)

    def _documents(self, path: str) -> tuple[Document, ...]:
        """Return the documents of a file that is taken; what is no YAML in it is told at its own place."""
        content = self.read(path) or b""
        if is_lfs_pointer(content):
            self._wrong(path, (1, 1), LFS_MESSAGE)
        found = self.library.take(path, content)
        for problem in (*found.problems, *(problem for one in found.documents for problem in one.problems)):
            self._wrong(path, (problem.line, problem.column), problem.message)
        return found.documents

    def _found(self, name: str, place: Mark, file: str) -> str | None:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), name))
        if path.startswith(("../", "/")) or path == ".." or name.startswith(("/", "~")):
            self._wrong(file, place, f'"{name}" leaves the repository: write a file inside of it, relative to {file}')
        elif self.read(path) is None:
            self._wrong(file, place, f'the commit has no file "{path}": write an existing one, relative to {file}')
        else:
            return path
        return None

    def _take_variables(self, name: str, place: Mark, file: str) -> None:
        path = self._found(name, place, file)
        if path is None or self._is_full(place, file):
            return
        documents = [one.root for one in self._documents(path) if text_of(one.root, "kind") == VARIABLES]
        values = documents[0].child("values") if len(documents) == 1 else None
        if values is None or not isinstance(values.content, dict):
            self._wrong(file, place, f"{path} is not one document of kind: {VARIABLES} with values: {{NAME: value}}")
            return
        self._count(values)
        self.variables_from.append(path)
        for key, node in values.content.items():
            if isinstance(node.content, dict | list):
                self._wrong(path, node.mark, f"{key} must be one value, not {describe(node.plain())}")
            else:
                self.variables[key] = node.content

    def filled(self, node: Node, file: str) -> Node:
        """Return a value with each `$(NAME)` in its texts replaced."""
        match node.content:
            case dict() as entries:
                content: Any = {key: self.filled(child, file) for key, child in entries.items()}
            case list() as children:
                content = [self.filled(child, file) for child in children]
            case str() as text:
                content = self._filled_text(text, node.mark, file)
            case _:
                return node
        return node.holding(content)

    def _filled_text(self, text: str, mark: Mark, file: str) -> JsonScalar:
        whole = _REFERENCE.fullmatch(text)
        if whole and whole.group(1):
            alone = self._value(whole.group(1), mark, file)
            return self._counted(alone, mark, file) if isinstance(alone, str) else alone

        def value(found: re.Match[str]) -> str:
            if found.group(1) is None:
                return "$("
            known = self._value(found.group(1), mark, file)
            return self._counted(known if isinstance(known, str) else _spelt(known), mark, file)

        return _REFERENCE.sub(value, text)

    def _counted(self, text: str, mark: Mark, file: str) -> str:
        """Return a text, or nothing once a document became too large by them."""
        self.filled_in += len(text)
        if self.filled_in <= MAX_BYTES:
            return text
        if self.filled_in - len(text) <= MAX_BYTES:
            self._wrong(file, mark, f"the variables make the document longer than {MAX_BYTES >> 20} MiB: shorten them")
        return ""

    def _value(self, name: str, mark: Mark, file: str) -> JsonScalar:
        if name in self.variables:
            return self.variables[name]
        near = did_you_mean(name, self.variables) if len(self.misfits) < MOST_GUESSES else ""
        hint = f'did you mean "{near}"?' if near else "write it there, or $$( for the text itself"
        self._wrong(file, mark, f'the variable "{name}" is not in {", ".join(self.variables_from)}: {hint}')
        return ""

    def _wrong(self, file: str, mark: Mark, message: str) -> None:
        self.misfits.append(Misfit(file=getattr(mark, "file", file), mark=mark, message=message))


def _name(root: Node) -> str:
    metadata = root.child("metadata")
    return text_of(metadata, "name") if metadata is not None else ""


def _unnamed(root: Node) -> Node:
    """Return a base without what says that it is one: a name is never inherited."""
    metadata = root.child("metadata")
    root = without(root, ("kind", "apiVersion"))
    if metadata is None or not isinstance(root.content, dict):
        return root
    content = {**root.content, "metadata": without(metadata, ("name",))}
    return root.holding(content)


def _rebased(root: Node, base: str, file: str) -> Node:
    """Return a base with the folders of its runtime environments named from the document that takes it."""

    def rename(folder: Node) -> Node:
        if not isinstance(folder.content, str) or not _is_relative(folder.content):
            return folder
        path = _from(file, posixpath.join(posixpath.dirname(base), folder.content))
        return folder.holding(path)

    for owner in _OWNERS:
        for folder in _FOLDERS:
            root = changed(root, (*owner, "runtime_env", *folder), rename)
    return root


def _is_relative(folder: str) -> bool:
    return bool(folder) and "://" not in folder and not folder.startswith(("/", "~"))


def _from(file: str, path: str) -> str:
    """Return a path from the root as one relative to a file; one that leaves the repository still does."""
    return "../" * file.count("/") + posixpath.normpath(path)


def _spelt(value: JsonScalar) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value}"
