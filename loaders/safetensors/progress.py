"""How a load is getting on, for callbacks and for people at a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

REPORTS_EVERY = 0.1
"""Seconds between reports: often enough to look alive, too seldom to cost anything."""
BAR_AFTER = 1.0
"""A load shorter than this shows no bar: it would only flicker."""
BAR_CELLS = 24


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A moment of a load. Bytes are those read from the source; `rate` is bytes per second since the beginning."""

    uri: str
    source: str
    done: int
    total: int
    tensors_done: int
    tensors_total: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def finished(self) -> bool:
        """Whether this is the last report."""
        return self.done >= self.total and self.tensors_done >= self.tensors_total


Report = Callable[[Progress], None]


def bar(progress: Progress) -> str:
    """Return one line that shows it."""
    share = progress.done / progress.total if progress.total else 1.0
    filled = int(BAR_CELLS * share)
    cells = "#" * filled + "." * (BAR_CELLS - filled)
    amount = f"{progress.done / 1e9:.2f}/{progress.total / 1e9:.2f} GB"
    return f"[{cells}] {share:4.0%} {amount} {progress.rate / 1e9:.2f} GB/s from {progress.source}"


class Bar:
    """Draws on a terminal, over and over the same line."""

    def __init__(self, stream: TextIO) -> None:
        """Nothing is drawn yet."""
        self._stream = stream
        self._drawn = False

    def __call__(self, progress: Progress) -> None:
        """Draw, and end the line with the last report."""
        if not self._drawn and (progress.seconds < BAR_AFTER or progress.finished):
            return
        self._drawn = True
        self._stream.write("\r" + bar(progress) + ("\n" if progress.finished else ""))
        self._stream.flush()


def reporter(progress: bool | Report | None) -> Report | None:
    """Return what to call: the caller's own, a bar, or nothing. `None` is a bar if there is a terminal."""
    if callable(progress):
        return progress
    if progress or (progress is None and sys.stderr.isatty()):
        return Bar(sys.stderr)
    return None


class Tally:
    """Counts what has landed and reports it, at most every `REPORTS_EVERY` seconds."""

    def __init__(self, report: Report | None, first: Progress) -> None:
        """`first` has the totals."""
        self._report = report
        self._first = first
        self._began = time.monotonic()
        self._last = 0.0
        self.done = 0
        self.tensors_done = 0

    def tick(self, *, now_or_never: bool = False) -> None:
        """Report if it is time to, or at once."""
        seconds = time.monotonic() - self._began
        if self._report is None or (seconds - self._last < REPORTS_EVERY and not now_or_never):
            return
        self._last = seconds
        first = self._first
        self._report(
            Progress(
                uri=first.uri,
                source=first.source,
                done=self.done,
                total=first.total,
                tensors_done=self.tensors_done,
                tensors_total=first.tensors_total,
                seconds=seconds,
            )
        )
