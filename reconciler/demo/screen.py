"""What the demo shows while it works: lines that stay, and on a terminal one live line below them."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

BAR_CELLS = 30
CLEAR_LINE = "\r\x1b[2K"
WRAP_AT = 100
SHORT_ID = 7

BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"
VERSION_COLOURS = (CYAN, YELLOW, "35", GREEN, "34")


@dataclass(frozen=True, kw_only=True)
class Share:
    """A version's part of the requests, in percent."""

    name: str
    percent: float


@dataclass(kw_only=True)
class Screen:
    """Narration goes to `out`. Colours and the live line only where a person looks at a terminal."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.monotonic)
    is_terminal: bool = False
    has_colour: bool = False
    _live: str = ""

    def __post_init__(self) -> None:
        """Look at what `out` is."""
        self.is_terminal = self.out.isatty() and os.environ.get("TERM") != "dumb"
        self.has_colour = self.is_terminal and not os.environ.get("NO_COLOR")

    def colour(self, text: str, *codes: str) -> str:
        """Return the text in a colour, where there are colours."""
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.has_colour else text

    def title(self, text: str) -> None:
        """Begin a chapter."""
        self._print("")
        self._print(self.colour(text, BOLD))

    def say(self, text: str) -> None:
        """Tell what happens, with the seconds since the start."""
        stamp = self.colour(f"{time.monotonic() - self.started:6.1f}s ", DIM)
        first, *rest = textwrap.wrap(text, WRAP_AT, break_long_words=False, break_on_hyphens=False) or [""]
        self._print(f"{stamp} {first}")
        for line in rest:
            self._print(f"{'':8} {line}")

    def quote(self, text: str) -> None:
        """Show somebody else's words as they are."""
        for line in text.splitlines():
            self._print(f"{'':8} {self.colour('|', DIM)} {line}")

    def plain(self, text: str) -> None:
        """Show a line as it is."""
        self._print(text)

    def live(self, shares: Sequence[Share], facts: str) -> None:
        """Replace the live line; nothing where there is no terminal."""
        if not self.is_terminal:
            return
        width = shutil.get_terminal_size().columns
        bar = self._bar(shares)
        names = " ".join(f"{share.name} {share.percent:g}%" for share in shares) or "no traffic yet"
        room = max(0, width - BAR_CELLS - 4)
        text = f"{names}  {facts}"
        self._live = f"  {bar} {text[: room - 1] + '…' if len(text) > room else text}"
        self.out.write(CLEAR_LINE + self._live)
        self.out.flush()

    def end_live(self) -> None:
        """Take the live line away."""
        if self._live:
            self.out.write(CLEAR_LINE)
            self.out.flush()
            self._live = ""

    def _bar(self, shares: Sequence[Share]) -> str:
        parts, filled, upto = [], 0, 0.0
        for number, share in enumerate(shares):
            upto += share.percent
            cells = round(upto * BAR_CELLS / 100) - filled
            filled += cells
            glyph = "█" if self.has_colour else "#=+-"[number % 4]
            parts.append(self.colour(glyph * cells, VERSION_COLOURS[number % len(VERSION_COLOURS)]))
        return "".join(parts) + ("·" if self.has_colour else ".") * (BAR_CELLS - filled)

    def _print(self, line: str) -> None:
        live, clear = self._live, CLEAR_LINE if self._live else ""
        self.out.write(f"{clear}{line}\n{live}")
        self.out.flush()


@dataclass(kw_only=True)
class Names:
    """Versions as the story calls them, by revision."""

    known: dict[str, str] = field(default_factory=dict)

    def of(self, revision: str) -> str:
        """Return a revision's name; the start of its id where the story knows none."""
        return self.known.setdefault(revision, revision[:SHORT_ID])

    def shares(self, weights: Mapping[str, float]) -> tuple[Share, ...]:
        """Return the weights, in the order in which their revisions were first heard of."""
        for revision in sorted(weights):
            self.of(revision)
        return tuple(Share(name=name, percent=weights[key]) for key, name in self.known.items() if key in weights)
