"""YAML files as JSON values that remember their lines.

Built from the parser's events, without recursion: a file of a million brackets must not exhaust the stack,
and a few lines of nested aliases must not fill the memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from specs.yaml_scalars import JsonScalar, is_container_tag, plain_scalar, tagged_scalar

MAX_BYTES = 1024 * 1024
"""Spec files are written by people; a larger file is a data file in the wrong place."""

MAX_VALUES = 100_000
"""Values of one file after its aliases are followed: ten lines of aliases can otherwise mean billions."""

TEXT_OF_A_VALUE = 100
"""Characters of a text that weigh as much as a value: a hundred thousand aliases of one long text are gigabytes too."""

MAX_DEPTH = 50
"""Levels of nesting; deeper values would exhaust the stack of whoever walks them."""

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels: make it flatter"
_LIBYAML_GIVES_UP = "exceeded maximum nesting depth"
"""A limit of newer PyYAML's own, far beyond ours; it reads ahead and may meet it first."""

Path = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, counted from 1."""


class FiledMark(tuple[int, int]):
    """A mark in another file than the document's own; to everybody who does not ask, a mark as any other."""

    file: str

    @classmethod
    def of(cls, mark: Mark, file: str) -> FiledMark:
        """Return a mark that names its file; one that does so already stays."""
        if isinstance(mark, FiledMark):
            return mark
        filed = cls(mark)
        filed.file = file
        return filed


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")

_HINTS = {
    "found character that cannot start any token": "this character cannot start a value: quote the text",
    "mapping values are not allowed in this context": "a `key: value` is not expected here: check the indentation, "
    "or quote a text that holds `: `",
    "could not find expected ':'": "a `:` is missing after the key, or a text of several lines is not indented",
    "did not find expected key": "a key is expected here: check the indentation and the brackets above",
    "found unexpected end of stream": "the file ends inside a value: a quote or bracket is not closed",
    "did not find expected node content": "a value is missing here, or a bracket above is not closed",
    "did not find expected ',' or ']'": "a `,` or `]` is missing in this list",
    "did not find expected ',' or '}'": "a `,` or `}` is missing in this mapping",
}


@dataclass(frozen=True, kw_only=True, order=True)
class YamlProblem:
    """One reason why a file is not plain YAML."""

    line: int
    column: int
    message: str


@dataclass(slots=True)
class Node:
    """One value with its place. `content` is a scalar, a list of nodes, or nodes by key."""

    mark: Mark
    content: JsonScalar | list[Node] | dict[str, Node]
    key_marks: dict[str, Mark] = field(default_factory=dict)
    values: int = 1
    """How many values it stands for, aliases followed; a long text stands for several."""
    height: int = 1

    def holding(self, content: JsonScalar | list[Node] | dict[str, Node]) -> Node:
        """Return a value in this one's place and of its size, with other content."""
        return Node(self.mark, content, self.key_marks, self.values, self.height)

    def plain(self) -> Any:
        """Return the JSON value."""
        match self.content:
            case dict():
                return {key: node.plain() for key, node in self.content.items()}
            case list():
                return [node.plain() for node in self.content]
            case _:
                return self.content

    def child(self, step: str | int) -> Node | None:
        """Return the value under a key or at an index, or None."""
        if isinstance(self.content, dict) and isinstance(step, str):
            return self.content.get(step)
        if isinstance(self.content, list) and isinstance(step, int) and step < len(self.content):
            return self.content[step]
        return None

    def locate(self, path: Path, *, at_key: bool = False) -> Mark:
        """Return where `path` is written: its value or, with `at_key`, its key; else the nearest key above."""
        node, nearest = self, self.mark
        for index, step in enumerate(path):
            child = node.child(step)
            if child is None:
                return nearest
            is_last = index == len(path) - 1
            key_mark = node.key_marks.get(step, child.mark) if isinstance(step, str) else child.mark
            nearest = child.mark if is_last and not at_key else key_mark
            node = child
        return nearest


@dataclass(frozen=True, kw_only=True)
class Document:
    """One whole document, and what in it is not plain JSON."""

    root: Node
    problems: tuple[YamlProblem, ...]


@dataclass(frozen=True, kw_only=True)
class YamlFile:
    """The documents of a file, and why nothing more could be read after them."""

    documents: tuple[Document, ...]
    problems: tuple[YamlProblem, ...]
    values: int = 0
    """How many values were read, aliases followed."""


class _Stop(Exception):
    """Reading on makes no sense."""


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    node: Node
    anchor: str | None
    key: tuple[str, Mark] | None = None
    has_merge: bool = False


def read_yaml(content: bytes) -> YamlFile:
    """Read all documents. Never raises: what is wrong is listed, with lines and columns."""
    builder = _Builder()
    try:
        text = _decode(content, builder)
        for event in yaml.parse(text, Loader=_Loader):
            builder.take(event)
    except _Stop:
        pass
    except yaml.MarkedYAMLError as error:
        builder.problems.append(_syntax_problem(error, text))
    except yaml.YAMLError as error:
        builder.problem((1, 1), f"not valid YAML: {error}")
    problems = tuple(sorted(set(builder.problems)))
    return YamlFile(documents=tuple(builder.documents), problems=problems, values=builder.values)


def _decode(content: bytes, builder: _Builder) -> str:
    if len(content) > MAX_BYTES:
        builder.stop((1, 1), f"the file is larger than {MAX_BYTES // 1024} KiB: split it into several files")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", errors="replace")
        builder.stop(_mark_at(before, len(before)), "the file is not UTF-8 text: save it as UTF-8")
    if match := _UNPRINTABLE.search(text):
        shown = f"U+{ord(match.group()):04X}"
        builder.stop(_mark_at(text, match.start()), f'control character {shown}: write it as "\\x.." in double quotes')
    return text


def _mark_at(text: str, position: int) -> Mark:
    lines = lines_of(text[:position])
    return len(lines), len(lines[-1]) + 1


def lines_of(text: str) -> list[str]:
    """Split a text where YAML does."""
    return _LINE_BREAK.split(text)


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> YamlProblem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    said = (error.problem or error.context or "cannot be read").strip()
    if said == _LIBYAML_GIVES_UP:
        return YamlProblem(line=line, column=column, message=_TOO_DEEP)
    lines = lines_of(text)
    rest = lines[line - 1][column - 1 :] if line <= len(lines) else ""
    if rest.startswith("\t"):
        said = "YAML does not allow tabs for indentation: use spaces"
    return YamlProblem(line=line, column=column, message=f"not valid YAML: {_HINTS.get(said, said)}")


class _Builder:
    """Turns events into nodes; `open` are the lists and mappings around the current event."""

    def __init__(self) -> None:
        self.documents: list[Document] = []
        self.problems: list[YamlProblem] = []
        self.open: list[_Open] = []
        self.anchors: dict[str, Node | None] = {}
        self.values = 0

    def stop(self, mark: Mark, message: str) -> NoReturn:
        """Give up on the rest of the file."""
        self.problem(mark, message)
        raise _Stop

    def problem(self, mark: Mark, message: str) -> None:
        self.problems.append(YamlProblem(line=mark[0], column=mark[1], message=message))

    def take(self, event: yaml.Event) -> None:
        """Handle one event."""
        match event:
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._start(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.DocumentStartEvent():
                self.anchors = {}
            case _:
                pass

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        mark = _mark(event)
        value: JsonScalar = event.value
        try:
            if event.tag is not None:
                value = tagged_scalar(event.tag, event.value)
            elif event.implicit[0]:
                value = plain_scalar(event.value)
        except ValueError as error:
            self.problem(mark, str(error))
        if self._wants_key():
            self._key(event, mark, value)
        else:
            more = len(event.value) // TEXT_OF_A_VALUE
            self.values += more
            self._place(Node(mark, value, values=1 + more), event.anchor)

    def _key(self, event: yaml.ScalarEvent, mark: Mark, value: JsonScalar) -> None:
        top = self.open[-1]
        top.has_merge = top.has_merge or (event.value == "<<" and bool(event.implicit[0]))
        if not isinstance(value, str):
            self.problem(mark, f'keys must be text: write "{event.value}" in quotes')
        if event.value in top.node.key_marks:
            first = top.node.key_marks[event.value][0]
            self.problem(mark, f'the key "{event.value}" is already on line {first}: keep one of the two')
        top.key = (event.value, mark)

    def _wants_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].node.content, dict) and self.open[-1].key is None

    def _start(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        mark = _mark(event)
        if self._wants_key():
            self.stop(mark, "keys must be text: a list or mapping cannot be a key")
        if not is_container_tag(event.tag):
            self.problem(mark, f"{event.tag} is not allowed: only plain lists and mappings are; leave the tag out")
        if len(self.open) >= MAX_DEPTH:
            self.stop(mark, _TOO_DEEP)
        node = Node(mark, {} if isinstance(event, yaml.MappingStartEvent) else [])
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.open.append(_Open(node, event.anchor))

    def _end(self) -> None:
        done = self.open.pop()
        if done.has_merge:
            self._merge(done.node)
        self._place(done.node, done.anchor)

    def _alias(self, event: yaml.AliasEvent) -> None:
        mark = _mark(event)
        if self._wants_key():
            self.stop(mark, "keys must be text: an alias cannot be a key")
        name = str(event.anchor)
        if name not in self.anchors:
            self.stop(mark, f"the alias *{name} has no anchor &{name} above it")
        node = self.anchors[name]
        if node is None:
            self.stop(mark, f"the alias *{name} stands inside the value that it names")
        if len(self.open) + node.height > MAX_DEPTH:
            self.stop(mark, _TOO_DEEP)
        self.values += node.values - 1
        self._place(node, None)

    def _place(self, node: Node, anchor: str | None) -> None:
        """Put a finished value where it belongs."""
        self.values += 1
        if self.values > MAX_VALUES:
            self.stop(node.mark, f"the file stands for more than {MAX_VALUES} values: make it smaller")
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.open:
            self.documents.append(Document(root=node, problems=tuple(sorted(set(self.problems)))))
            self.problems = []
            return
        top = self.open[-1]
        top.node.values += node.values
        top.node.height = max(top.node.height, node.height + 1)
        if isinstance(top.node.content, list):
            top.node.content.append(node)
        elif isinstance(top.node.content, dict) and top.key is not None:
            key, mark = top.key
            more = len(key) // TEXT_OF_A_VALUE
            self.values += more
            top.node.values += more
            top.node.content[key], top.node.key_marks[key], top.key = node, mark, None

    def _merge(self, node: Node) -> None:
        """Give a mapping the entries of `<<` that it does not have itself."""
        if not isinstance(node.content, dict):
            return
        source = node.content.pop("<<")
        mark = node.key_marks.pop("<<")
        for mapping in source.content if isinstance(source.content, list) else [source]:
            if not isinstance(mapping.content, dict):
                self.problem(mark, "`<<` takes a mapping or a list of mappings, such as *anchor")
                return
            for key, value in mapping.content.items():
                if key not in node.content:
                    node.content[key], node.key_marks[key] = value, mapping.key_marks[key]


def _mark(event: Any) -> Mark:
    return event.start_mark.line + 1, event.start_mark.column + 1
