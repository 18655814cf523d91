"""Text for terminals: aligned columns, colours where they are wanted, nothing that moves the cursor."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import IO

import click

GAP = "  "
TONES = {"good": "green", "busy": "cyan", "bad": "red", "warn": "yellow", "quiet": "bright_black"}


def has_colours(stream: IO[str] | None = None) -> bool:
    """Return whether colours are wanted: only on a terminal, and never with NO_COLOR."""
    target = stream or sys.stdout
    return target.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def toned(text: str, tone: str, *, bold: bool = False) -> str:
    """Return the text in a tone's colour, or as it is where colours are not wanted."""
    if not has_colours() or not (tone in TONES or bold):
        return text
    return click.style(text, fg=TONES.get(tone), bold=bold or None)


def clean(text: str) -> str:
    """Return the text without control characters: messages come from code that we do not know."""
    return "".join(char if char == "\n" or unicodedata.category(char) not in {"Cc", "Cf"} else " " for char in text)


def one_line(text: str) -> str:
    """Return the text on one line, without control characters: a name with a line break could say anything."""
    return " ".join(clean(text).split())


def room() -> int | None:
    """Return the terminal's columns, None when the output goes to a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def shortened(text: str, columns: int) -> str:
    """Return the text in at most so many columns."""
    return text if len(text) <= columns else text[: max(1, columns - 1)] + "…"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Return aligned columns; cells may be coloured. Only the last column is cut to the terminal's width."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(click.unstyle(line[place])) for line in lines) for place in range(len(head))]
    available = room()
    if available is not None:
        used = sum(widths[:-1]) + len(GAP) * (len(head) - 1)
        widths[-1] = min(widths[-1], max(12, available - used))
    texts = [_row(line, widths, right) for line in lines]
    return "\n".join([toned(texts[0], "quiet"), *texts[1:]])


def _row(line: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> str:
    return GAP.join(_cell(*cell, place in right) for place, cell in enumerate(zip(line, widths, strict=True))).rstrip()


def _cell(text: str, width: int, to_the_right: bool) -> str:
    plain = click.unstyle(text)
    if len(plain) > width:
        return shortened(plain, width)
    padding = " " * (width - len(plain))
    return padding + text if to_the_right else text + padding


def indented(text: str, by: str = "  ") -> str:
    """Return all lines moved to the right."""
    return "\n".join(f"{by}{line}" if line else "" for line in text.splitlines())
