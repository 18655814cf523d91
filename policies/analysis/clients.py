"""How much less events say that come in clusters, one client's together (sticky traffic)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from specs.evidence import Evidence, Window


def design_effect(windows: Iterable[Window], count: Callable[[Evidence], tuple[float, float]]) -> float:
    """Return by how much the variance of an event count exceeds that of independent events; at least 1.

    `count` returns (events, out of how many). The groups' deviations from their revision's rate give the variance
    that clusters nested in them cause, whatever the clusters are (Rao and Scott 1992); dividing counts by the
    effect makes them count as so many independent ones. One standard error is added: too small a value would
    break the false alarm budget, too large a value costs requests.
    """
    seen = expected = 0.0
    freedom = 0
    for evidence in (side for window in windows for side in (window.candidate, window.stable)):
        groups = [count(group) for group in evidence.clients]
        events, trials = sum(event for event, _ in groups), sum(trial for _, trial in groups)
        if len(groups) < 2 or not 0 < events < trials:
            continue
        rate = events / trials
        deviations = sum((event - rate * trial) ** 2 for event, trial in groups)
        seen += deviations * len(groups) / (len(groups) - 1)
        expected += trials * rate * (1 - rate)
        freedom += len(groups) - 1
    if not expected:
        return 1.0
    return max(1.0, seen / expected * (1 + math.sqrt(2 / freedom)))
