"""Ray's label selectors: `us-east-1a`, `!spot`, `in(a, b)`, `!in(a, b)`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LABEL_TEXT = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL = re.compile(_LABEL_TEXT)
_CHOICE = re.compile(rf"!?(?:in)?\({_LABEL_TEXT}(?:, ?{_LABEL_TEXT})*\)|!?{_LABEL_TEXT}|")
_BETWEEN = re.compile(r"(?<=[a-zA-Z0-9])\.(?=[a-zA-Z0-9])")
_LONGEST_PREFIX = 253


def is_label_key(text: str) -> bool:
    """Return whether Ray takes a text as a label's name (`ray/_private/label_utils.py`), in time linear in its length.

    Ray's pattern lets a dot be a part of a label and stand between two; to try all ways takes for ever. Cut wherever
    a dot may stand between, labels are shortest, and nothing but their length depends on it.
    """
    prefix, slash, name = text.rpartition("/")
    labels = _BETWEEN.split(prefix) if slash else []
    fits = not slash or 1 <= len(prefix) <= _LONGEST_PREFIX
    return fits and all(map(_LABEL.fullmatch, (*labels, name)))


def is_choice(text: str) -> bool:
    """Return whether Ray takes a text as what a label's value is to be."""
    return _CHOICE.fullmatch(text) is not None


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether a node with `labels` is one that `selector` allows."""
    return all(_allows(choice, labels.get(label)) for label, choice in selector.items())


def _allows(choice: str, value: str | None) -> bool:
    if choice.startswith("!"):
        return not _allows(choice[1:], value)
    if choice.startswith("in(") and choice.endswith(")"):
        return value in [one.strip() for one in choice[3:-1].split(",")]
    return value == choice
