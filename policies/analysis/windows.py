"""A rollout's evidence as a few windows of time, each with one division of the traffic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from specs.evidence import Evidence, Window

MAX_WINDOWS = 8
"""Memory keeps them and each look reads them all; a rollout in small moves would collect dozens."""


def append(windows: tuple[Window, ...], window: Window) -> tuple[Window, ...]:
    """Return `windows` with one more that has ended, the two most alike put together when they become too many."""
    if not window.candidate.requests and not window.stable.requests:
        return windows
    kept = (*windows, window)
    while len(kept) > MAX_WINDOWS:
        kept = _with_the_closest_two_together(kept)
    return kept


def candidate_share(window: Window) -> float:
    """Return the share of the requests that the candidate got, 0 to 1."""
    both = window.candidate.requests + window.stable.requests
    return window.candidate.requests / both if both else 0.0


def counters(windows: Sequence[Window]) -> Window:
    """Return the sum of all windows' counters, without latencies and client groups: those are costly to add."""
    if len(windows) == 1:
        return windows[0]
    return Window(
        candidate=_counters([window.candidate for window in windows]),
        stable=_counters([window.stable for window in windows]),
    )


def _counters(parts: Sequence[Evidence]) -> Evidence:
    return Evidence(
        requests=sum(part.requests for part in parts),
        errors=sum(part.errors for part in parts),
        aborted=sum(part.aborted for part in parts),
        unrouted=sum(part.unrouted for part in parts),
    )


def _with_the_closest_two_together(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    by_share = sorted(windows, key=candidate_share)
    pairs = pairwise(by_share)
    one, other = min(pairs, key=lambda pair: candidate_share(pair[1]) - candidate_share(pair[0]))
    merged = Window(candidate=one.candidate + other.candidate, stable=one.stable + other.stable)
    rest = [window for window in windows if window is not one and window is not other]
    return (*rest, merged)
