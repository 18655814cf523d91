"""A parser with a mistake that chance does not find: to see that coverage does."""

from __future__ import annotations


def check(value: bytes) -> None:
    """Fail for one of 2**32 beginnings, which can be found letter by letter."""
    if value[:1] != b"h":
        return
    if value[1:2] != b"e":
        return
    if value[2:3] != b"l":
        return
    if value[3:4] != b"i":
        return
    raise AssertionError("planted")
