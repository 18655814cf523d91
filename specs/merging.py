"""Documents as values that remember where they are written: laid on one another, filed, changed in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from specs.yaml_marks import FiledMark, Mark, Node

BY_NAME = frozenset(
    {
        ("spec", "application", "deployments"),
        ("spec", "rollout", "gates"),
        ("spec", "analysis", "metrics"),
    }
)
"""Lists whose entries are merged by `name`; all others are replaced whole."""

EACH = "*"
"""In a path: all entries of a list."""


def merge(under: Node, over: Node, path: tuple[str, ...] = ()) -> Node:
    """Return `over` laid on `under`: mappings key by key, some lists by name, everything else replaced.

    A null in `over` takes the field away.
    """
    if isinstance(under.content, dict) and isinstance(over.content, dict):
        return _merged_mapping(under, over, path)
    if path in BY_NAME and _are_named(under) and _are_named(over):
        return _merged_by_name(under, over, path)
    return over


def _merged_mapping(under: Node, over: Node, path: tuple[str, ...]) -> Node:
    below, above = under.content, over.content
    assert isinstance(below, dict)
    assert isinstance(above, dict)
    content: dict[str, Node] = dict(below)
    marks = dict(under.key_marks)
    for key, node in above.items():
        marks[key] = over.key_marks[key]
        if node.content is None and key in below:
            del content[key]
        else:
            content[key] = merge(below[key], node, (*path, key)) if key in below else node
    return _node(over.mark, content, marks)


def _merged_by_name(under: Node, over: Node, path: tuple[str, ...]) -> Node:
    assert isinstance(under.content, list)
    assert isinstance(over.content, list)
    entries = {text_of(node, "name"): node for node in under.content}
    for node in over.content:
        name = text_of(node, "name")
        if text_of(node, "$patch") == "delete":
            entries.pop(name, None)
        else:
            entries[name] = merge(entries[name], node, path) if name in entries else node
    return _node(over.mark, list(entries.values()), {})


def _node(mark: Mark, content: dict[str, Node] | list[Node], key_marks: dict[str, Mark]) -> Node:
    children = list(content.values()) if isinstance(content, dict) else content
    values = 1 + sum(child.values for child in children)
    return Node(mark, content, key_marks, values, 1 + max((child.height for child in children), default=0))


def _are_named(node: Node) -> bool:
    """Return whether it is a list of mappings each with a name of its own: others are not merged."""
    if not isinstance(node.content, list):
        return False
    names = [text_of(entry, "name") for entry in node.content]
    return all(names) and len(names) == len(set(names))


def text_of(node: Node, key: str) -> str:
    """Return the text under a key, "" when there is none."""
    child = node.child(key)
    return child.content if child is not None and isinstance(child.content, str) else ""


def without(root: Node, keys: tuple[str, ...]) -> Node:
    """Return a mapping without some of its fields."""
    if not isinstance(root.content, dict) or not any(key in root.content for key in keys):
        return root
    content = {key: node for key, node in root.content.items() if key not in keys}
    return root.holding(content)


def filed(node: Node, file: str) -> Node:
    """Return a value whose marks name the file that they are in."""
    match node.content:
        case dict() as entries:
            content: Any = {key: filed(child, file) for key, child in entries.items()}
        case list() as children:
            content = [filed(child, file) for child in children]
        case _:
            content = node.content
    marks: dict[str, Mark] = {key: FiledMark.of(mark, file) for key, mark in node.key_marks.items()}
    return Node(FiledMark.of(node.mark, file), content, marks, node.values, node.height)


def changed(node: Node, path: tuple[str, ...], change: Callable[[Node], Node]) -> Node:
    """Return a value with what stands at `path` changed, if anything does; the value itself stays as it is."""
    if not path:
        return change(node)
    step, rest = path[0], path[1:]
    content: Any
    if step == EACH and isinstance(node.content, list):
        content = [changed(child, rest, change) for child in node.content]
    elif isinstance(node.content, dict) and step in node.content:
        content = {**node.content, step: changed(node.content[step], rest, change)}
    else:
        return node
    return node.holding(content)
