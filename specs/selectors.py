"""Ray's label selectors: `us-east-1a`, `!spot`, `in(a, b)`, `!in(a, b)`."""

from __future__ import annotations

from collections.abc import Mapping


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether a node with `labels` is one that `selector` allows."""
    return all(_allows(choice, labels.get(label)) for label, choice in selector.items())


def _allows(choice: str, value: str | None) -> bool:
    if choice.startswith("!"):
        return not _allows(choice[1:], value)
    if choice.startswith("in(") and choice.endswith(")"):
        return value in [one.strip() for one in choice[3:-1].split(",")]
    return value == choice
